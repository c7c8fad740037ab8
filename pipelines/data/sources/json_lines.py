"""Files with one text or JSON object per line, whose lines have numbers when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.files import HALF_CHARACTER, readable


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line of a UTF-8 file is ("FILE, line 3"), and its text without the line's end.

    Raises:
        BadInputError: The file cannot be read, or is not text.
    """
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number:,}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BadInputError(
                    f"{place}: byte 0x{line[error.start]:02x} in column {error.start + 1} is not"
                    f" UTF-8; convert the file, for example with iconv -f latin1 -t utf-8 '{path}'"
                ) from None
            if "\0" in text:
                raise BadInputError(f"{place} has a NUL byte; is the file binary, or UTF-16?")
            yield place, text.rstrip("\r\n")


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each JSON object of a file is ("FILE, line 3"), and the object; blank lines are none.

    Raises:
        BadInputError: The file cannot be read, or a line is something else.
    """
    for place, line in lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInputError(
                f"{place}, column {error.colno}: not JSON ({error.msg}); write one object per line"
            ) from None
        except (ValueError, RecursionError) as error:  # huge numbers, very deep lists
            raise BadInputError(f"{place} is not JSON that can be read: {error}") from None
        if not isinstance(record, dict):
            raise BadInputError(f"{place} is {line.strip()[:40]}, not a JSON object {{…}}")
        yield place, record


def field(record: dict[str, Any], name: str, place: str) -> Any:
    """What a record has in the field `name`.

    Raises:
        BadInputError: It has none; the line names those that it has.
    """
    if record.get(name) is None:
        there = ", ".join(map(repr, record)) or "none"
        raise BadInputError(f"{place} has no field {name!r}; its fields are {there}")
    return record[name]


def text(value: Any, name: str, place: str) -> str:
    """`value`, which stands in field `name`, if it is a text.

    Raises:
        BadInputError: It is something else, or holds half a character, which JSON can express.
    """
    if not isinstance(value, str):
        raise BadInputError(f"{place}: field {name!r} is {value!r:.40}, not a text")
    if HALF_CHARACTER.search(value):
        raise BadInputError(f"{place}: field {name!r} holds half a surrogate pair; take it out")
    return value
