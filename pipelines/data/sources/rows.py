"""Rows with a text in one field, and documents made from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources.documents import Document, paragraphs
from pipelines.data.sources.source import OnBadRow

HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a surrogate: JSON can express it, UTF-8 cannot

FIELD_FORM = "#FIELD[@KEY]"


class BadRowError(Exception):
    """A row has no text; the message is the reason."""


@dataclass(frozen=True)
class Fields:
    """The fields of a row that are read. ``a.b`` is field b of field a.

    Attributes:
        text: The field of the text.
        key: Consecutive rows with equal values of this field are one document; "" if every row is
            a document.
    """

    text: str = "text"
    key: str = ""

    @classmethod
    def parse(cls, spec: str) -> Fields:
        """Read the part of a specification behind ``#``; "" is the field ``text``.

        Raises:
            BadArgumentsError: A name is empty.
        """
        text, separator, key = spec.partition("@")
        if separator and not key:
            raise BadArgumentsError(f"#{spec} names no field after @; write {FIELD_FORM}")
        return cls(text or "text", key)

    @property
    def columns(self) -> list[str]:
        """The names of the fields, for formats that store columns."""
        return [self.text, self.key] if self.key else [self.text]

    def may_cut(self, row: Any, following: Any) -> bool:
        """Return whether a document ends between two rows; not beside a row without a key."""
        if not self.key:
            return True
        try:
            keys = [value_of(each, self.key) for each in (row, following)]
        except BadRowError:
            return False
        return keys[1] is None or bool(keys[0] != keys[1])

    def text_of(self, row: Any) -> str:
        """Return the text of a row.

        Raises:
            BadRowError: The row has no such text.
        """
        value = value_of(row, self.text)
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise BadRowError(f"field {self.text!r} is not UTF-8 text") from None
        if not isinstance(value, str):
            kind = "null" if value is None else f"{value!r:.40}, not a text"
            raise BadRowError(f"field {self.text!r} is {kind}")
        if not value.isascii() and HALF_CHARACTER.search(value):
            raise BadRowError(f"field {self.text!r} contains half of a surrogate pair")
        return value.replace("\0", "")  # as BERT does


def value_of(row: Any, name: str) -> Any:
    """Return the value of a field of a row; a dot separates nested names.

    Raises:
        BadRowError: There is no such field.
    """
    if not isinstance(row, dict):
        raise BadRowError(f"{row!r:.40} is not an object with fields")
    value: Any = row
    rest = name
    while isinstance(value, dict) and rest not in value and "." in rest:
        outer, _, rest = rest.partition(".")
        value = value.get(outer)
    if isinstance(value, dict) and rest in value:
        return value[rest]
    names = ", ".join(map(repr, row)) or "none"
    raise BadRowError(
        f"it has no field {name!r}; its fields are {names:.200} (choose one: {FIELD_FORM})"
    )


def documents_of_rows(
    rows: Iterable[tuple[int, Any]],
    fields: Fields,
    position: Callable[[int], str],
    on_bad_row: OnBadRow,
) -> Iterator[Document]:
    """Make documents of rows; those of empty texts are empty.

    Args:
        rows: The rows, each with its number or offset; a row that cannot be read is a BadRowError.
        fields: The fields to read.
        position: Turns a number or offset into a position for messages.
        on_bad_row: Called for each row without a text.
    """
    document: Document | None = None
    previous: Any = None
    for number, row in rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            key = value_of(row, fields.key) if fields.key else None
            if document is not None and (key is None or key != previous):
                yield document
                document = None
            previous = key
            lines = paragraphs(fields.text_of(row))
        except BadRowError as error:
            on_bad_row(position(number), str(error))
            continue
        if document is None:
            document = lines
        else:
            document.extend(lines)
    if document is not None:
        yield document
