"""Corpora in folders of Arrow files, as `Dataset.save_to_disk` of Hugging Face writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.data.sources.locations import File, escaped, find, is_url, readable
from pipelines.data.sources.rows import Fields
from pipelines.data.sources.source import Piece, Source
from pipelines.data.sources.tables import ColumnTable, check_file, rows_of_batch, table_pieces

_FILE_MAGIC = b"ARROW1"
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream
_STATE, _DICT, _INFO = "state.json", "dataset_dict.json", "dataset_info.json"
_BATCH = 1024  # rows that become Python objects together


class ArrowTable(ColumnTable):
    """The rows of one Arrow file or stream."""

    def count(self) -> int:
        with _opened(self.file) as (_, batches):
            return sum(batch.num_rows for batch in batches)

    def schema(self) -> Any:
        with _opened(self.file) as (schema, _):
            return schema

    def rows(self, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
        """See `Table.rows`. A local file is mapped, so rows before `start` cost nothing."""
        with _opened(self.file) as (_, batches):
            yield from islice(_rows(batches, start, columns, self.file), end - start)


def _rows(
    batches: Iterator[Any], skipped: int, columns: Sequence[str], file: File
) -> Iterator[Any]:
    for batch in batches:
        if skipped >= batch.num_rows:
            skipped -= batch.num_rows
            continue
        names = [name if name in batch.schema.names else name.partition(".")[0] for name in columns]
        missing = [name for name in names if name not in batch.schema.names]
        if missing:
            raise BadInputError(
                f"{file} has no field {missing[0]!r}; its fields are"
                f" {', '.join(batch.schema.names):.300}. Choose one, as in {Arrow.form}"
            )
        needed = batch.select(list(dict.fromkeys(names)))
        for first in range(skipped, batch.num_rows, _BATCH):
            yield from rows_of_batch(needed.slice(first, _BATCH))
        skipped = 0


@contextmanager
def _opened(file: File) -> Iterator[tuple[Any, Iterator[Any]]]:
    import pyarrow

    with readable(file), file.open() as content:
        source = content if is_url(file.name) else pyarrow.memory_map(file.name)
        is_file = content.peek().startswith(_FILE_MAGIC)
        try:
            if is_file:
                reader = pyarrow.ipc.open_file(source)
                batches = map(reader.get_batch, range(reader.num_record_batches))
                yield reader.schema, batches
            else:
                # Otherwise, pyarrow takes a stream that was cut for a shorter one.
                content.seek(-min(len(_END), file.size), io.SEEK_END)
                if content.read() != _END:
                    raise BadInputError(f"{file} is damaged: its end is missing; restore it")
                content.seek(0)
                reader = pyarrow.ipc.open_stream(source)
                yield reader.schema, iter(reader)
        except (pyarrow.ArrowException, OSError) as error:
            text = " ".join(str(error).split())[:200]
            raise BadInputError(
                f"{file} is damaged or not an Arrow file: {text}; restore it"
            ) from None


class Arrow(Source):
    """A data set that was saved to a folder."""

    scheme = "arrow"
    form = "arrow:FOLDER[:SPLIT][#FIELD[@KEY]]"
    summary = (
        "a data set of Hugging Face that was saved with save_to_disk; SPLIT (default train) of a"
        ' dictionary of data sets; the text is in FIELD (default "text")'
    )
    example = "arrow:saved/wikipedia:train#text"

    def __init__(self, spec: str) -> None:
        """Find the files.

        Raises:
            BadInputError: The folder holds no such data set or split.
        """
        super().__init__(spec)
        location, _, fields = self.name.partition("#")
        self._fields = Fields.parse(fields)
        folder, split = folder_and_split(location)
        if not folder:
            raise BadArgumentsError(f"corpus {spec!r} names no folder; write {self.form}")
        self._files = data_files(folder.rstrip("/"), split, f"corpus {spec!r}")

    def size(self) -> int:
        return sum(file.size for file in self._files)

    def files(self) -> list[Any]:
        return [[file.name, file.size] for file in self._files]

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        return table_pieces([ArrowTable(file) for file in self._files], self._fields, size)


def folder_and_split(location: str) -> tuple[str, str]:
    """Divide ``FOLDER[:SPLIT]``; the split may be empty."""
    folder, colon, split = location.rpartition(":")
    # The colon of a URL is followed by slashes.
    return (folder, split) if colon and "/" not in split else (location, "")


def splits_of(folder: str) -> list[str]:
    """Return the splits of a dictionary of data sets; none if the folder is no dictionary.

    Raises:
        BadInputError: The list of splits is damaged.
    """
    splits = _json_of(f"{folder}/{_DICT}").get("splits") or []
    # A name could lead out of the folder.
    if not isinstance(splits, list) or not all(isinstance(s, str) and "/" not in s for s in splits):
        raise BadInputError(f"{folder}/{_DICT} is damaged: it lists no splits; restore it")
    return splits


def is_data_set(folder: str) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return any(find(escaped(f"{folder}/{name}")) for name in (_STATE, _DICT))


def info_of(folder: str) -> dict[str, Any]:
    """Read the description of a data set; empty if there is none."""
    return _json_of(f"{folder}/{_INFO}")


def data_files(folder: str, split: str, name: str) -> list[File]:
    """List the files of a data set, or of a split of a dictionary of data sets (default: train).

    Args:
        folder: The folder.
        split: The split; may be empty.
        name: What the user wrote, for messages.

    Raises:
        BadInputError: There is no such data set or split, or files are missing.
    """
    splits = splits_of(folder)
    if splits or split:
        split = split or "train"
        if split not in splits:
            names = ", ".join(splits) or "none: the folder is one data set"
            raise BadInputError(f"{name} has no split {split!r}; its splits are {names}")
        folder = f"{folder}/{split}"
    files = _listed_names(f"{folder}/{_STATE}")
    if not files:
        raise BadInputError(
            f"{name}: {folder} has no {_STATE}; give a folder that save_to_disk wrote, as in"
            f" {Arrow.form}"
        )
    listed = [file for each in files for file in find(escaped(f"{folder}/{each}"))]
    if len(listed) != len(files):
        raise BadInputError(
            f"{folder}/{_STATE} lists {len(files)} files, but {len(listed)} exist; copy the whole"
            " folder again"
        )
    for file in listed:
        check_file(file, Arrow.scheme, folder)
    return listed


def _listed_names(state: str) -> list[str]:
    """Return the names of the Arrow files that a data set lists; none if it has no list."""
    content = _json_of(state)
    if content.get("_indices_data_files"):
        raise BadInputError(
            f"{state}: rows were selected or sorted without being written; save the data set again"
            " with datasets 2 or later"
        )
    entries = content.get("_data_files") or []
    try:
        names = [entry["filename"] for entry in entries]
    except (TypeError, KeyError):
        names = [None]
    # A name could lead out of the folder.
    if not all(isinstance(name, str) and name and "/" not in name for name in names):
        raise BadInputError(f"{state} is damaged: it lists no names of files; restore it")
    return names


def _json_of(name: str) -> dict[str, Any]:
    """Read a JSON object; an empty one if there is no such file."""
    for file in find(escaped(name)):
        with readable(file), file.open() as content:
            try:
                value = json.load(content)
            except (ValueError, RecursionError):
                value = None
        if not isinstance(value, dict):
            raise BadInputError(f"{name} is damaged: it is not a JSON object; restore it")
        return value
    return {}
