"""Files with one text or JSON object per line; errors name the number of the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import File, existing, readable
from pipelines.data.sources.rows import HALF_CHARACTER


def lines(path: str | Path | File) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line of a UTF-8 file; only line feeds end a line.

    Args:
        path: A path or URL; the file may be compressed.

    Raises:
        BadInputError: The file cannot be read, or is not text.
    """
    source = path if isinstance(path, File) else existing(path)
    with readable(source), source.open_text() as file:
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


def position(path: str | Path | File, number: int) -> str:
    """Return the position of a line for messages: "FILE, line 3"."""
    return f"{path}, line {number:,}"


def records(
    path: str | Path | File, skipped: list[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of the line and the content of each JSON object; skip blank lines.

    Args:
        path: See `lines`.
        skipped: Collects the positions of lines that are not JSON objects; None = refuse them.

    Raises:
        BadInputError: The file cannot be read, or a line is not a JSON object.
    """
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            yield number, _object(line, position(path, number))
        except BadInputError:
            if skipped is None:
                raise
            skipped.append(position(path, number))


def _object(line: str, location: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInputError(
            f"{location}, column {error.colno}: not JSON ({error.msg}); write one object per line"
        ) from None
    except (ValueError, RecursionError) as error:  # huge numbers, very deep lists
        raise BadInputError(f"{location} cannot be read as JSON: {error}") from None
    if not isinstance(record, dict):
        raise BadInputError(f"{location} must be a JSON object, not {line.strip()[:40]}")
    return record


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
