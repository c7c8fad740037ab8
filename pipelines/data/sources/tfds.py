"""Corpora of tensorflow_datasets, read without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import open_builder, split_name, tables_of_split
from pipelines.data.sources.rows import Fields
from pipelines.data.sources.source import Piece, Source
from pipelines.data.sources.tables import Table, table_pieces

_MARKERS = re.compile(rb"_START_(ARTICLE|SECTION)_\n[^\n]*|_START_PARAGRAPH_")


@dataclass(frozen=True)
class Wiki40bTable(Table):
    """The articles of wiki40b without their markers and headings; other text is unchanged."""

    stored: Table

    def count(self) -> int:
        return self.stored.count()

    def rows(self, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
        for row in self.stored.rows(start, end, columns):
            if isinstance(row, dict):
                for name in columns:
                    if isinstance(row.get(name), bytes) and b"_START_" in row[name]:
                        row[name] = _MARKERS.sub(b"", row[name]).replace(b"_NEWLINE_", b"\n")
            yield row


class TensorFlowDataset(Source):
    """A split of a data set, in every format that tensorflow_datasets writes.

    A data set that is not prepared yet is downloaded and prepared. Builders that call TensorFlow,
    such as those that unpack zip or tar files, must be prepared where it is installed.
    """

    scheme = "tfds"
    form = "tfds:NAME[/CONFIG][:VERSION][:SPLIT][#FIELD[@KEY]]"
    summary = (
        "a data set of tensorflow_datasets, or the folder of one; the text of SPLIT (default train)"
        ' is in FIELD (default "text")'
    )
    example = "tfds:wiki40b/en:train"

    def __init__(self, spec: str) -> None:
        """Find the data set, and prepare it if necessary.

        Raises:
            BadInputError: There is no data set of this name, or it cannot be prepared.
        """
        super().__init__(spec)
        name, _, fields = self.name.partition("#")
        self._fields = Fields.parse(fields)
        self._name, split = split_name(name)
        builder = open_builder(self._name)
        tables = tables_of_split(builder, split or "train")
        self._tables = [Wiki40bTable(table.file, table) for table in tables]
        info = builder.info
        self._check_fields(info.features)
        self.license = " ".join((info.redistribution_info.license or self.license).split())

    def _check_fields(self, features: Any) -> None:
        for name in self._fields.columns:
            if name not in features and name.partition(".")[0] not in features:
                raise BadInputError(
                    f"tfds:{self._name} has no field {name!r}; its fields are"
                    f" {', '.join(features)}. Choose one, as in {self.spec.partition('#')[0]}#FIELD"
                )

    def size(self) -> int:
        return sum(table.file.size for table in self._tables)

    def files(self) -> list[Any]:
        return [[table.file.name, table.file.size] for table in self._tables]

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        return table_pieces(self._tables, self._fields, size)
