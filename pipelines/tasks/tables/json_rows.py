"""Rows of JSON files: an object per line, an array of objects, or an object that contains one."""

from __future__ import annotations

import json
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import File
from pipelines.data.sources.numbered_lines import position, records
from pipelines.tasks.tables.bad_rows import REMEDY, BadRows
from pipelines.tasks.tables.stored import class_names, with_classes
from pipelines.tasks.tables.table import Table

_LISTS = ("data", "rows")
_FORMS = 'an object per line, [{…}, …] or {"data": [{…}, …]}'


def read_lines(source: str, file: File, bad_rows: BadRows) -> Table:
    """Read JSON Lines.

    Raises:
        BadInputError: A line is not a JSON object.
    """
    skipped: list[str] | None = [] if bad_rows.skip else None
    locations, numbers = [], []
    rows: list[dict[str, Any]] = []
    for line, record in records(file, skipped):
        locations.append(position(file, line))
        numbers.append(len(rows) + len(skipped or ()))
        rows.append(record)
    bad_rows.check(source, skipped or [], len(rows) + len(skipped or []))
    return Table(source, _columns(rows), rows, locations, {}, bad_rows, numbers=numbers)


def is_lines(text: str) -> bool:
    """Return whether the first of several lines is an object: JSON Lines in a .json file.

    `Dataset.to_json` of Hugging Face writes such files.
    """
    first, _, rest = text.lstrip().partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def value_of(source: str, text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        BadInputError: It is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInputError(
            f"{source}, line {error.lineno}, column {error.colno}: not JSON ({error.msg});"
            " correct it"
        ) from None
    except (ValueError, RecursionError) as error:  # huge numbers, very deep lists
        raise BadInputError(f"{source} cannot be read as JSON: {error}") from None


def read_document(source: str, file: File, text: str, bad_rows: BadRows) -> Table:
    """Read a JSON file that is one value, or JSON Lines.

    Raises:
        BadInputError: It is not JSON, or contains no rows.
    """
    if is_lines(text):
        return read_lines(source, file, bad_rows)
    content, features = _rows_of(source, value_of(source, text))
    rows, locations, skipped = [], [], []
    numbers: list[int] = []
    for number, row in enumerate(content, start=1):
        location = f"{source}, row {number:,}"
        if isinstance(row, dict):
            rows.append(with_classes(row, features, location) if features else row)
            locations.append(location)
            numbers.append(number - 1)
        elif bad_rows.skip:
            skipped.append(location)
        else:
            raise BadInputError(
                f"{location} must be a JSON object, not {json.dumps(row)[:40]}; correct it, or"
                f" {REMEDY}"
            )
    bad_rows.check(source, skipped, len(content))
    classes = class_names(features)
    return Table(source, _columns(rows), rows, locations, classes, bad_rows, numbers=numbers)


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _rows_of(source: str, content: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the rows in a value, and the description of their columns, if there is one."""
    if isinstance(content, list):
        return content, {}
    keys = list(content) if isinstance(content, dict) else [str(content)[:40]]
    key = next((key for key in _LISTS if key in keys and isinstance(content[key], list)), "")
    if not key:
        raise BadInputError(
            f"{source} contains no list of rows ({', '.join(keys):.100}); write {_FORMS}"
            " (with pandas: to_json(FILE, orient='records', lines=True))"
        )
    rows, names = content[key], content.get("columns")
    if isinstance(names, list) and all(isinstance(row, list) for row in rows):  # pandas: split
        if any(len(row) != len(names) for row in rows):
            raise BadInputError(
                f"{source}: rows have more or fewer values than columns; correct it"
            )
        return [dict(zip(map(str, names), row, strict=True)) for row in rows], {}
    if rows and all(isinstance(row, dict) and isinstance(row.get("row"), dict) for row in rows):
        # The server of data sets of the hub.
        listed = content.get("features")
        described = listed if isinstance(listed, list) else []
        features = {
            str(each.get("name")): each.get("type") for each in described if isinstance(each, dict)
        }
        return [row["row"] for row in rows], features
    return rows, {}
