"""Files with one text or JSON object per line; errors name the number of the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import readable
from pipelines.data.sources.rows import HALF_CHARACTER


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line of a UTF-8 file; only line feeds end a line.

    Raises:
        BadInputError: The file cannot be read, or is not text.
    """
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadInputError(
                    f"{position(path, number)}: byte 0x{line[error.start]:02x} in column"
                    f" {error.start + 1} is not UTF-8; convert the file, for example with"
                    f" iconv -f latin1 -t utf-8 '{path}'"
                ) from None
            if "\0" in text:
                raise BadInputError(
                    f"{position(path, number)} has a NUL byte; convert UTF-16 to UTF-8, or choose a"
                    " text file"
                )
            # Concatenated files also have byte order marks in the middle.
            yield number, text.rstrip("\r\n").removeprefix("\ufeff")


def position(path: Path, number: int) -> str:
    """Return the position of a line for messages: "FILE, line 3"."""
    return f"{path}, line {number:,}"


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of the line and the content of each JSON object; skip blank lines.

    Raises:
        BadInputError: The file cannot be read, or a line is not a JSON object.
    """
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInputError(
                f"{position(path, number)}, column {error.colno}: not JSON ({error.msg});"
                " write one object per line"
            ) from None
        except (ValueError, RecursionError) as error:  # huge numbers, very deep lists
            raise BadInputError(
                f"{position(path, number)} cannot be read as JSON: {error}"
            ) from None
        if not isinstance(record, dict):
            raise BadInputError(
                f"{position(path, number)} must be a JSON object, not {line.strip()[:40]}"
            )
        yield number, record


def field(record: dict[str, Any], name: str, location: str) -> Any:
    """Return the value of the field `name` of a record.

    Raises:
        BadInputError: There is no such field; the message lists the fields.
    """
    if record.get(name) is None:
        names = ", ".join(map(repr, record)) or "none"
        raise BadInputError(f"{location} has no field {name!r}; its fields are {names}")
    return record[name]


def text(value: Any, name: str, location: str) -> str:
    """Return the value of field `name` if it is a text.

    Raises:
        BadInputError: It is not a text, or contains half a surrogate pair, which JSON can express.
    """
    if not isinstance(value, str):
        raise BadInputError(f"{location}: field {name!r} is {value!r:.40}; write a string")
    if HALF_CHARACTER.search(value):
        raise BadInputError(f"{location}: field {name!r} contains an unpaired surrogate; remove it")
    return value
