"""The HTTP interface of a task: requests, responses and the form on the page of `serve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """An input of the form.

    Attributes:
        label: Text beside the input.
        value: Initial content. A field of type ``list[str]`` has one text per line.
        rows: Height in lines; 1 is a single-line input.
        hint: Muted text behind the label.
    """

    label: str
    value: str = ""
    rows: int = 3
    hint: str = ""


@dataclass(frozen=True)
class Endpoint:
    """POST /api/NAME and its form.

    Attributes:
        request: Dataclass with fields of type ``str``, ``str | None`` or ``list[str]``. The server
            limits the length of the texts and the number of texts in a list.
        response: Dataclass with the fields of the answer; other keys of a record are left out.
        title: Heading of the form.
        text: Paragraph below the heading.
        button: Text of the button.
        fields: Name of each request field -> its input.
    """

    request: type
    response: type
    title: str
    text: str
    button: str
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class Single:
    """A text."""

    text: str


@dataclass(frozen=True)
class MaybePair:
    """A text or a pair of texts."""

    text: str
    pair: str | None = None


def pair_fields(value: str) -> dict[str, Field]:
    """Return the inputs of `MaybePair`, with an initial text."""
    hint = "(only for models of pairs)"
    return {"text": Field("Text", value), "pair": Field("Second text", rows=2, hint=hint)}
