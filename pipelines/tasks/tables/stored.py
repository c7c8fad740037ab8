"""Rows of Parquet and Arrow files, with the names of their classes.

Data sets of Hugging Face store classes as numbers, and their names as JSON in the schema of each
file, and in ``dataset_info.json`` of a folder that `save_to_disk` wrote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.rows import BadRowError
from pipelines.data.sources.tables import ColumnTable
from pipelines.tasks.tables.bad_rows import REMEDY, BadRows
from pipelines.tasks.tables.table import Table

_METADATA = b"huggingface"
_KIND, _CLASSES = "_type", "ClassLabel"


def read_stored(
    source: str, files: Sequence[ColumnTable], features: Any, bad_rows: BadRows
) -> Table:
    """Read the rows of files with the same columns.

    Args:
        source: What the user named.
        files: The files.
        features: Column -> description of its values, as Hugging Face writes it; empty = as in the
            files.
        bad_rows: What to do with rows that are not text.

    Raises:
        BadInputError: A file is damaged, or has other columns.
    """
    names: list[str] = []
    rows: list[dict[str, Any]] = []
    locations: list[str] = []
    skipped: list[str] = []
    numbers: list[int] = []
    for file in files:
        schema = file.schema()
        if names and schema.names != names:
            raise BadInputError(
                f"{file.file} has the columns {', '.join(schema.names)}, but {files[0].file} has"
                f" {', '.join(names)}; read them one at a time"
            )
        names = names or schema.names
        features = features or features_of(schema)
        for number, row in enumerate(file.rows(0, file.count(), names), start=1):
            location = f"{file.file}, row {number:,}"
            if isinstance(row, BadRowError) and bad_rows.skip:
                skipped.append(location)
                continue
            if isinstance(row, BadRowError):
                raise BadInputError(f"{location}: {row}; correct it, or {REMEDY}")
            numbers.append(len(rows) + len(skipped))
            rows.append(with_classes(row, features, location))
            locations.append(location)
    bad_rows.check(source, skipped, len(rows) + len(skipped))
    classes = class_names(features)
    return Table(source, names, rows, locations, classes, bad_rows, numbers=numbers)


def features_of(schema: Any) -> dict[str, Any]:
    """Return the description of the columns in the schema of a file; empty if there is none."""
    try:
        features = json.loads((schema.metadata or {})[_METADATA])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def class_names(features: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column that has some, also in lists."""
    described = features.items() if isinstance(features, dict) else ()
    return {
        name: list(classes) for name, feature in described if (classes := _classes(_item(feature)))
    }


def with_classes(row: dict[str, Any], features: Any, location: str) -> dict[str, Any]:
    """Return a row with names of classes instead of their numbers.

    Raises:
        BadInputError: There is no class of a number.
    """
    if not isinstance(features, dict):
        return row
    return {
        name: _named(value, features.get(name), f"{location}: {name!r}")
        for name, value in row.items()
    }


def _item(feature: Any) -> Any:
    """Return the description of the items of a list, or of a value that is none."""
    if isinstance(feature, list) and feature:
        return feature[0]
    return feature.get("feature", feature) if isinstance(feature, dict) else feature


def _classes(feature: Any) -> list[str]:
    """Return the names of classes; empty if a feature is not one of classes."""
    if not isinstance(feature, dict) or feature.get(_KIND) != _CLASSES:
        return []
    names = feature.get("names")
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else []


def _named(value: Any, feature: Any, location: str) -> Any:
    """Replace numbers of classes by their names, at any depth; -1 means no class."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")  # text of a writer that does not mark it
    if isinstance(value, list):
        inner = feature
        if isinstance(feature, list):
            inner = feature[0] if feature else None
        elif isinstance(feature, dict):
            inner = feature.get("feature")
        return [_named(each, inner, location) for each in value]
    if isinstance(value, dict) and isinstance(feature, dict):
        # A sequence of objects is stored as an object of lists.
        inner = feature.get("feature")
        is_sequence = isinstance(inner, dict) and _KIND in feature
        fields = inner if isinstance(inner, dict) and is_sequence else feature
        described = {
            name: [fields.get(name)] if is_sequence else fields.get(name) for name in value
        }
        return {name: _named(each, described[name], location) for name, each in value.items()}
    names = _classes(feature)
    if not names or not isinstance(value, int):
        return value
    if value == -1:
        return None
    if not 0 <= value < len(names):
        raise BadInputError(
            f"{location} is {value}, but there are {len(names)} classes; correct it"
        )
    return names[value]
