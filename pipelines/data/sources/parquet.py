"""Corpora of Parquet files, as data sets on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import File, readable
from pipelines.data.sources.rows import FIELD_FORM
from pipelines.data.sources.tables import ColumnTable, TableFiles, rows_of_batch

_BATCH = 256  # rows that are decoded together
# A row group is read in pieces of this size: row groups of the hub exceed 1 GiB.
_BUFFER = 1 << 20
_MAGIC = b"PAR1"


class ParquetTable(ColumnTable):
    """The rows of one Parquet file."""

    def count(self) -> int:
        with opened(self.file) as parquet:
            count: int = parquet.metadata.num_rows
        return count

    def schema(self) -> Any:
        with opened(self.file) as parquet:
            return parquet.schema_arrow

    def rows(self, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
        """See `Table.rows`; rows before `start` in its row group are decoded and dropped."""
        with opened(self.file) as parquet:
            _check_columns(self.file, parquet, columns)
            groups: list[int] = []
            first = 0
            skipped = start
            for group in range(parquet.num_row_groups):
                following = first + parquet.metadata.row_group(group).num_rows
                if following > start and first < end:
                    skipped = start - first if not groups else skipped
                    groups.append(group)
                first = following
            batches = parquet.iter_batches(
                _BATCH, row_groups=groups, columns=list(columns), use_threads=False
            )
            yield from islice(_rows(batches, skipped), end - start)

    def cuts(self, size: int, columns: Sequence[str]) -> list[tuple[int, int]]:
        """See `Table.cuts`: whole row groups, or parts of a large one."""
        cuts = []
        with opened(self.file) as parquet:
            _check_columns(self.file, parquet, columns)
            first = rows = total = 0
            for number in range(parquet.num_row_groups):
                group = parquet.metadata.row_group(number)
                bytes_of_group = _bytes_of(group, columns)
                rows, total = rows + group.num_rows, total + bytes_of_group
                if total < size and number < parquet.num_row_groups - 1:
                    continue
                step = max(1, -(-rows * size // max(size, total)))
                ends = [*range(first + step, first + rows, step), first + rows]
                for start, end in zip([first, *ends], ends, strict=False):
                    if end > start:
                        cuts.append((end, total * (end - start) // rows))
                first, rows, total = first + rows, 0, 0
        return cuts


@contextmanager
def opened(file: File) -> Iterator[Any]:
    """Open a Parquet file.

    Raises:
        BadInputError: The file is damaged or has another format.
    """
    import pyarrow
    import pyarrow.parquet

    with readable(file), file.open() as content:
        magic = content.read(len(_MAGIC))
        if magic != _MAGIC:
            raise BadInputError(f"{file} is not a Parquet file; check its format")
        try:
            # Without pre-buffering, so that the memory does not grow with the row group.
            yield pyarrow.parquet.ParquetFile(content, pre_buffer=False, buffer_size=_BUFFER)
        except (pyarrow.ArrowException, OSError) as error:
            text = " ".join(str(error).split())[:200]
            raise BadInputError(f"{file} is damaged: {text}; restore it") from None


def _check_columns(file: File, parquet: Any, columns: Sequence[str]) -> None:
    paths = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
    for name in columns:
        if not any(path == name or path.startswith(f"{name}.") for path in paths):
            fields = ", ".join(dict.fromkeys(path.removesuffix(".list.element") for path in paths))
            raise BadInputError(
                f"{file} has no field {name!r}; its fields are {fields:.300}. Choose one, as in"
                f" parquet:GLOB{FIELD_FORM}"
            )


def _bytes_of(group: Any, columns: Sequence[str]) -> int:
    chunks = [group.column(number) for number in range(group.num_columns)]
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns)
    )


def _rows(batches: Iterator[Any], skipped: int) -> Iterator[Any]:
    for batch in batches:
        if skipped >= batch.num_rows:
            skipped -= batch.num_rows
            continue
        yield from rows_of_batch(batch.slice(skipped))
        skipped = 0


class Parquet(TableFiles):
    """Parquet files."""

    scheme = "parquet"
    form = "parquet:GLOB[#FIELD[@KEY]]"
    summary = (
        'rows of Parquet files; the text is in FIELD (default "text"), a.b in field b of a; with'
        " KEY, consecutive rows of one KEY are a document"
    )
    example = "parquet:wikipedia/20231101.en/*.parquet"
    table = ParquetTable

    def size(self) -> int:
        """See `Source.size`; only the fields that are read count."""
        return self._size

    @cached_property
    def _size(self) -> int:
        total = 0
        for file in self.corpus_files:
            with opened(file) as parquet:
                groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
                total += sum(_bytes_of(group, self._fields.columns) for group in groups)
        return total
