"""Read a table of labeled data.

    FILE.csv                     a header line; quoted fields may contain line breaks
    FILE.tsv, FILE.txt           a header line; quoted only if the whole file shows it
    FILE.jsonl, FILE.json        a JSON object per line; an array of objects
    FILE.parquet, FILE.arrow     columns, with the names of classes that Hugging Face stores
    FOLDER[:SPLIT]               such files; a data set that `save_to_disk` wrote, also as
                                 arrow:FOLDER[:SPLIT]; texts in a folder for each class
    tfds:NAME[/CONFIG]:SPLIT     a data set of tensorflow_datasets
    hf:ORG/NAME[/CONFIG]:SPLIT   such files of a data set on the Hugging Face hub

A file or folder may be at a URL, a pattern such as ``train-*.parquet`` may name several files, and
text files may be compressed. Text is UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.hub.data_sets import hub_split
from pipelines.data.hub.repository import is_hub_name
from pipelines.data.sources import arrow
from pipelines.data.sources.arrow import ArrowTable, folder_and_split
from pipelines.data.sources.data_sets import TFDS, read_split
from pipelines.data.sources.decompression import DECOMPRESSORS
from pipelines.data.sources.locations import (
    File,
    escaped,
    existing,
    find,
    is_folder,
    is_url,
)
from pipelines.data.sources.parquet import ParquetTable
from pipelines.data.sources.tables import check_file
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.tables.class_folders import TEXT, read_texts, texts_below
from pipelines.tasks.tables.delimited import read_delimited
from pipelines.tasks.tables.json_rows import read_document, read_lines
from pipelines.tasks.tables.stored import features_of, read_stored
from pipelines.tasks.tables.table import Table
from pipelines.tasks.tables.text import JSON_ARRAY, JSON_LINES, starts_with, text_of
from pipelines.tasks.task import Columns

_STORED = {".parquet": ParquetTable, ".arrow": ArrowTable}
_DELIMITED = {".csv": ",", ".tsv": "\t", TEXT: "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_JSON = (*_JSON_LINES, ".json")
_DATA = (*_STORED, *_JSON, ".csv", ".tsv")  # in folders, where a .txt is a text
_SUFFIXES = (*_STORED, *_JSON, *_DELIMITED)
FORMS = (
    f"{', '.join(_SUFFIXES)} (text also with {', '.join(DECOMPRESSORS)}), a folder of such files,"
    " of save_to_disk or of a folder for each class, tfds:NAME:SPLIT"
    " or hf:ORG/NAME:SPLIT"
)


def read(source: str, columns: Columns | None = None, bad_rows: BadRows = STOP) -> Table:
    """Read a table with at least one row.

    Args:
        source: Files or a data set; see above.
        columns: Names or numbers of the columns.
        bad_rows: What to do with rows that cannot be read.

    Raises:
        BadInputError: It cannot be read.
    """
    table = _read(source, columns or Columns(), bad_rows)
    if not table.rows:
        raise BadInputError(f"{source} has no rows")
    return table


def _read(source: str, columns: Columns, bad_rows: BadRows) -> Table:
    if source.startswith(TFDS):
        return _read_data_set(source, bad_rows)
    if is_hub_name(source) and not is_url(source):
        return _read_hub(source, columns, bad_rows)
    location = source.removeprefix(f"{arrow.Arrow.scheme}:")
    folder, split = folder_and_split(location)
    if is_folder(location):
        folder, split = location, ""
    elif location == source and not (split and is_folder(folder)):
        files = find(escaped(source)) or find(source) or [existing(source)]
        return _read_files(source, files, columns, bad_rows)
    folder = folder.rstrip("/")
    if location != source or arrow.is_data_set(folder):
        return _read_saved(source, folder, split, bad_rows)
    return _read_folder(source, folder, split, columns, bad_rows)


def _read_data_set(source: str, bad_rows: BadRows) -> Table:
    data = read_split(source)
    locations = [f"{source}, example {number}" for number in range(len(data.rows))]
    return Table(source, data.features, data.rows, locations, data.class_names, bad_rows)


def _read_hub(source: str, columns: Columns, bad_rows: BadRows) -> Table:
    """Read a split of a data set on the hub; the features in its files count before others."""
    split = hub_split(source)
    files = [File(str(path), path.stat().st_size) for path in split.files]
    if files[0].content_suffix not in _STORED:
        return replace(_read_files(source, files, columns, bad_rows), source=source)
    tables = list(map(ParquetTable, files))
    features = features_of(tables[0].schema()) or split.features
    return read_stored(source, tables, features, bad_rows)


def _read_saved(source: str, folder: str, split: str, bad_rows: BadRows) -> Table:
    """Read a folder that `save_to_disk` wrote."""
    splits = arrow.splits_of(folder)
    if splits and not split:
        split = _only(source, splits)
    files = [ArrowTable(file) for file in arrow.data_files(folder, split, source)]
    info = arrow.info_of(f"{folder}/{split}" if split else folder)
    return read_stored(source, files, info.get("features"), bad_rows)


def _read_folder(
    source: str, folder: str, split: str, columns: Columns, bad_rows: BadRows
) -> Table:
    """Read the files of a folder, or the texts in it."""
    parts: list[str] = []
    for place in (folder, f"{folder}/data"):
        files = _files_in(place)
        names = list(dict.fromkeys(map(_split_of, files)))
        if files and (split in names or not split):
            part = split or _only(source, names)
            files = [file for file in files if _split_of(file) == part]
            return _read_files(source, files, columns, bad_rows)
        parts += names
    if split:
        part = f"{folder}/{split}"
        if parts and not (_files_in(part) or texts_below(part)):
            _only(source, parts, split)
        return _read_folder(source, part, "", columns, bad_rows)
    if classes := texts_below(folder):
        return read_texts(source, classes, True, bad_rows)
    if texts := [file for file in find(f"{escaped(folder)}/*") if file.suffix == TEXT]:
        return read_texts(source, texts, False, bad_rows)
    patterns = (f"{escaped(folder)}/{'*/' * depth}*" for depth in (1, 2, 3))
    below = [each for p in patterns for each in find(p) if each.content_suffix in _SUFFIXES]
    names = sorted({PurePosixPath(each.name).relative_to(folder).parts[0] for each in below})
    remedy = f"choose a folder in it: {', '.join(names)}" if names else f"it needs {FORMS}"
    raise BadInputError(f"{source} contains no labeled data; {remedy}")


def _files_in(folder: str) -> list[File]:
    """List the files of data in a folder: those of one format."""
    by_suffix: dict[str, list[File]] = {}
    for file in find(f"{escaped(folder)}/*"):
        if not PurePosixPath(file.name).name.startswith("dataset_info"):  # about the data
            by_suffix.setdefault(file.content_suffix, []).append(file)
    return next((by_suffix[each] for each in _DATA if each in by_suffix), [])


def _only(source: str, names: Sequence[str], requested: str = "") -> str:
    """Return the only split; the training data must not be evaluated by mistake.

    Raises:
        BadInputError: There are several, or there is none of the requested name.
    """
    if len(names) == 1 and not requested:
        return names[0]
    listed = ", ".join(name or "(without a name)" for name in names)
    if requested:
        raise BadInputError(f"{source} has no split {requested!r}; its splits are {listed}")
    raise BadInputError(f"{source} has the splits {listed}; choose one, as in {source}:{names[0]}")


def _split_of(file: File) -> str:
    """Return the name of a file without the number of the shard: train-00000-of-00001.parquet."""
    name = PurePosixPath(file.name.partition("?")[0]).name
    return re.split(r"(?:^|[-_.])\d", name.partition(".")[0])[0]


def _read_files(source: str, files: Sequence[File], columns: Columns, bad_rows: BadRows) -> Table:
    """Read files of one format as one table."""
    if len(files) > 1:
        say(f"{source}: {len(files):,} files, {files[0]} to {files[-1]}")
    suffix = files[0].content_suffix
    if suffix not in _SUFFIXES:
        raise BadInputError(f"{files[0]}: unknown file type {suffix!r}; use {FORMS}")
    if other := next((file for file in files if file.content_suffix != suffix), None):
        raise BadInputError(f"{source}: {files[0]} and {other} have other formats; choose one")
    if suffix in _STORED:
        for file in files:
            check_file(file, suffix[1:], source)
        return read_stored(source, list(map(_STORED[suffix], files)), {}, bad_rows)
    if suffix in _JSON:
        tables = [_read_json(file, suffix, bad_rows) for file in files]
    else:
        tables = [_read_delimited(file, suffix, columns, bad_rows) for file in files]
        _check_headers(tables)
    return replace(_joined(tables), source=source)


def _read_json(file: File, suffix: str, bad_rows: BadRows) -> Table:
    if suffix in _JSON_LINES and not starts_with(file, b"["):
        return read_lines(file.name, file, bad_rows)
    return read_document(file.name, file, text_of(file, (JSON_LINES, JSON_ARRAY)), bad_rows)


def _read_delimited(file: File, suffix: str, columns: Columns, bad_rows: BadRows) -> Table:
    return read_delimited(file.name, text_of(file), _DELIMITED[suffix], columns, bad_rows)


def _check_headers(tables: Sequence[Table]) -> None:
    first, *others = tables
    for table in others:
        if table.columns != first.columns:
            raise BadInputError(
                f"{table.source} has the columns {', '.join(table.columns)}, but {first.source} has"
                f" {', '.join(first.columns)}; read them one at a time"
            )


def _joined(tables: Sequence[Table]) -> Table:
    """Return the rows of several files as one table."""
    first, *others = tables
    if not others:
        return first
    return replace(
        first,
        numbers=(),
        columns=list(dict.fromkeys(name for table in tables for name in table.columns)),
        rows=[row for table in tables for row in table.rows],
        locations=[location for table in tables for location in table.locations],
    )
