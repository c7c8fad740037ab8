"""Files with one text or JSON object per line; errors name the number of the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import readable
from pipelines.data.sources.rows import HALF_CHARACTER


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the position ("FILE, line 3") and the text of each line of a UTF-8 file.

    Raises:
        BadInputError: The file cannot be read, or is not text.
    """
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            position = f"{path}, line {number:,}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BadInputError(
                    f"{position}: byte 0x{line[error.start]:02x} in column {error.start + 1} is not"
                    f" UTF-8; convert the file, for example with iconv -f latin1 -t utf-8 '{path}'"
                ) from None
            if "\0" in text:
                raise BadInputError(
                    f"{position} has a NUL byte; convert UTF-16 to UTF-8, or choose a text file"
                )
            yield position, text.rstrip("\r\n")


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the position ("FILE, line 3") and the content of each JSON object; skip blank lines.

    Raises:
        BadInputError: The file cannot be read, or a line is not a JSON object.
    """
    for position, line in lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInputError(
                f"{position}, column {error.colno}: not JSON ({error.msg});"
                " write one object per line"
            ) from None
        except (ValueError, RecursionError) as error:  # huge numbers, very deep lists
            raise BadInputError(f"{position} cannot be read as JSON: {error}") from None
        if not isinstance(record, dict):
            raise BadInputError(f"{position} must be a JSON object, not {line.strip()[:40]}")
        yield position, record


def field(record: dict[str, Any], name: str, position: str) -> Any:
    """Return the value of the field `name` of a record.

    Raises:
        BadInputError: There is no such field; the message lists the fields.
    """
    if record.get(name) is None:
        names = ", ".join(map(repr, record)) or "none"
        raise BadInputError(f"{position} has no field {name!r}; its fields are {names}")
    return record[name]


def text(value: Any, name: str, position: str) -> str:
    """Return the value of field `name` if it is a text.

    Raises:
        BadInputError: It is not a text, or contains half a surrogate pair, which JSON can express.
    """
    if not isinstance(value, str):
        raise BadInputError(f"{position}: field {name!r} is {value!r:.40}; write a string")
    if HALF_CHARACTER.search(value):
        raise BadInputError(f"{position}: field {name!r} contains an unpaired surrogate; remove it")
    return value
