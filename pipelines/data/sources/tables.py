"""Sources whose rows have numbers: the rows of a file can be read from any number on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.sources.documents import Document
from pipelines.data.sources.files import FileSource
from pipelines.data.sources.locations import File, readable
from pipelines.data.sources.recognition import HEAD, check_format
from pipelines.data.sources.rows import BadRowError, Fields, documents_of_rows, value_of
from pipelines.data.sources.source import OnBadRow, Piece, grouped, stop_at


@dataclass(frozen=True)
class Table(ABC):
    """A file of rows. Subclasses turn the errors of their library into BadInputError."""

    file: File

    @abstractmethod
    def count(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def rows(self, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
        """Yield rows `start` to `end` - 1, each a dict of its fields or a BadRowError.

        Args:
            start: The first row.
            end: The row behind the last one.
            columns: The fields that are needed; others may be missing.
        """

    def cuts(self, size: int, columns: Sequence[str]) -> Sequence[tuple[int, int]]:
        """Divide the rows into runs of about `size` bytes; return last row + 1 and bytes of each.

        Rows count as equally large, unless a format knows better.
        """
        del columns
        count = self.count()
        step = max(1, size * count // max(1, self.file.size))
        ends = [*range(step, count, step), *([count] if count else [])]
        return [
            (end, self.file.size * (end - start) // count)
            for start, end in zip([0, *ends], ends, strict=False)
        ]


class ColumnTable(Table):
    """A file that stores columns, with a schema."""

    @abstractmethod
    def schema(self) -> Any:
        """Return the `pyarrow.Schema` of the file."""


_NO_KEY = object()


@dataclass(frozen=True)
class RowPiece(Piece):
    """Rows `start` to `end` - 1 of a table.

    With a key, the piece begins with the first row of a document and ends with the last row of one:
    rows at its beginning that continue a document of the previous piece are skipped, and the rows
    behind `end` that continue its own last document are read.
    """

    table: Table
    fields: Fields
    start: int
    end: int

    @property
    def origin(self) -> str:
        return self.table.file.name

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`."""
        rows = self._grouped_rows() if self.fields.key else self._rows(self.start, self.end)
        return documents_of_rows(rows, self.fields, self._position, on_bad_row)

    def _rows(self, start: int, end: int) -> Iterator[tuple[int, Any]]:
        return enumerate(self.table.rows(start, end, self.fields.columns), start)

    def _grouped_rows(self) -> Iterator[tuple[int, Any]]:
        previous = self._key_before_start()
        is_own = previous is _NO_KEY
        for number, row in self._rows(self.start, self.table.count()):
            key = self._key(row)
            if key is _NO_KEY:  # a bad row, which belongs to no document
                if number < self.end:
                    yield number, row
                continue
            starts_document = key is None or key != previous
            if number >= self.end and (starts_document or not is_own):
                return
            is_own = is_own or starts_document
            if is_own:
                yield number, row
            previous = key

    def _key_before_start(self) -> Any:
        """Return the key of the last row before the piece that has one."""
        for number in range(self.start - 1, -1, -1):
            for _, row in self._rows(number, number + 1):
                if (key := self._key(row)) is not _NO_KEY:
                    return key
        return _NO_KEY

    def _key(self, row: Any) -> Any:
        try:
            return value_of(row, self.fields.key)
        except BadRowError:
            return _NO_KEY

    def _position(self, number: int) -> str:
        return f"{self.table.file}, row {number + 1:,}"


def check_file(file: File, scheme: str, pattern: str) -> None:
    """Check the first bytes of a file; see `check_format`."""
    with readable(file), file.open() as content:
        check_format(content.peek()[:HEAD], file.name, scheme, pattern)


def rows_of_batch(batch: Any) -> Iterator[Any]:
    """Yield the rows of a batch of pyarrow; one with text that is not UTF-8 is a BadRowError."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                yield BadRowError("a field is not UTF-8 text")


def table_pieces(
    tables: Sequence[Table], fields: Fields, size: int
) -> Iterator[tuple[tuple[Piece, ...], int]]:
    """Cut tables, one after the other; see `Source.pieces`. Small tables are grouped."""

    def pieces() -> Iterator[tuple[Piece, int]]:
        for table in tables:
            start = 0
            for end, run in table.cuts(size, fields.columns):
                yield RowPiece(table, fields, start, end), run
                start = end

    return grouped(pieces(), size)


class TableFiles(FileSource):
    """Files of rows that match a pattern."""

    has_fragment = True
    table: type[Table]

    def __init__(self, spec: str) -> None:
        """Find the files; see `FileSource` for the errors."""
        super().__init__(spec)
        self._fields = Fields.parse(self.fragment())
        for file in self.corpus_files:
            check_file(file, self.scheme, self.pattern())

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        return table_pieces([self.table(file) for file in self.corpus_files], self._fields, size)
