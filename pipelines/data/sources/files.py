"""Sources that consist of files, and files that are cut at the boundaries of documents.

A span of a plain file is a range of bytes that a worker reads by itself. A compressed file can only
be read from its beginning, so its spans carry their text. Where a file is cut depends on its text
alone, not on its compression.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.decompression import EXPANSION
from pipelines.data.sources.documents import Document
from pipelines.data.sources.locations import File, find, is_folder, readable
from pipelines.data.sources.recognition import HEAD, check_format
from pipelines.data.sources.source import OnBadRow, Piece, Source, stop_at

# Bytes. A file with a longer document has no boundaries of documents.
MAX_DOCUMENT = 1 << 26

_CHUNK = 1 << 20
_TAIL = 256  # bytes


@dataclass(frozen=True)
class Span:
    """Whole documents of one file.

    Attributes:
        file: The file.
        start: Offset of the first byte in the (decompressed) file.
        end: Offset behind the last byte.
        data: The bytes, if the file is compressed.
        first_line: Number of the first line, if the file is compressed.
    """

    file: File
    start: int
    end: int
    data: bytes | None
    first_line: int = 1

    def read(self) -> bytes:
        """Read the bytes.

        Raises:
            BadInputError: The file cannot be read.
        """
        if self.data is not None:
            return self.data
        with readable(self.file), self.file.open() as file:
            file.seek(self.start)
            data = file.read(self.end - self.start)
        if len(data) != self.end - self.start:
            raise BadInputError(f"{self.file} was truncated while it was read; run again")
        return data

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines, each with its offset in the file."""
        offset = self.start
        with io.BytesIO(self.read()) as lines:
            for line in lines:
                yield offset, line
                offset += len(line)

    def line(self, offset: int) -> str:
        """Return the position of an offset for messages: "FILE, line 3"."""
        if self.data is not None:
            number = self.first_line + self.data.count(b"\n", 0, offset - self.start)
        else:
            number = 1
            with readable(self.file), self.file.open() as file:
                while offset > 0 and (chunk := file.read(min(_CHUNK, offset))):
                    number += chunk.count(b"\n")
                    offset -= len(chunk)
        return f"{self.file}, line {number:,}"

    def text(self, offset: int, line: bytes) -> str:
        """Decode a line of a file that is nothing but text, without NUL, as BERT does.

        Raises:
            BadInputError: The line is not UTF-8.
        """
        try:
            text = line.decode("utf-8-sig" if offset == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise BadInputError(
                f"{self.line(offset)}: byte 0x{line[error.start]:02x} in column {error.start + 1}"
                " is not UTF-8; convert the file, for example with"
                f" iconv -f latin1 -t utf-8 '{self.file}'"
            ) from None
        return text.replace("\0", "")


@dataclass(frozen=True)
class SpanPiece(Piece):
    """A span and how to parse it."""

    span: Span

    @property
    def origin(self) -> str:
        return str(self.span.file)

    @abstractmethod
    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`."""


class FileSource(Source):
    """Files that match a pattern, in the order of their names.

    Attributes:
        has_fragment: Whether ``#…`` may follow the pattern.
        corpus_files: The files.
    """

    has_fragment: ClassVar[bool] = False

    def __init__(self, spec: str) -> None:
        """Find the files.

        Raises:
            BadInputError: No file matches.
        """
        super().__init__(spec)
        pattern = self.pattern()
        self.corpus_files = find(pattern)
        if not self.corpus_files:
            hint = "check it"
            if is_folder(pattern):
                hint = f"to read a folder, write {self.scheme}:{pattern.rstrip('/')}/**/*"
            raise BadInputError(f"corpus {spec!r}: no file matches {pattern}; {hint}")

    def pattern(self) -> str:
        """Return the pattern of the file names."""
        return self.name.partition("#")[0] if self.has_fragment else self.name

    def fragment(self) -> str:
        """Return what follows the pattern."""
        return self.name.partition("#")[2]

    def size(self) -> int:
        return sum(map(text_size, self.corpus_files))

    def files(self) -> list[Any]:
        return [[file.name, file.size] for file in self.corpus_files]


class SpanSource(FileSource):
    """Files that can be cut between lines.

    Attributes:
        document_per_line: Whether every line is a document.
        end: Last bytes of every complete file; empty if the format has none.
    """

    document_per_line: bool = False
    end: ClassVar[bytes] = b""

    @abstractmethod
    def piece(self, span: Span) -> SpanPiece:
        """Return the piece that parses a span."""

    def is_boundary(self, line: bytes, following: bytes) -> bool:
        """Return whether a document may end between two whole lines."""
        raise NotImplementedError

    def read_documents(
        self, content: io.BufferedReader, file: File, size: int
    ) -> Iterator[bytes] | None:
        """Read whole documents of at least `size` bytes, for formats that state their length.

        Returns:
            The bytes of the documents; None if only lines show where a document ends.
        """
        return None

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """See `Source.pieces`; small files are grouped."""
        pieces: list[SpanPiece] = []
        total = 0
        for file in self.corpus_files:
            cutter = FileCutter(file, self)
            try:
                while span := cutter.next_span(size - total):
                    pieces.append(self.piece(span))
                    total += span.end - span.start
                    if total >= size:
                        yield tuple(pieces), total
                        pieces, total = [], 0
            finally:
                cutter.close()
        if pieces:
            yield tuple(pieces), total


class FileCutter:
    """Cuts one file into spans, from its beginning to its end."""

    def __init__(self, file: File, source: SpanSource) -> None:
        """Open the file.

        Raises:
            BadInputError: The file has another format, or cannot be read.
        """
        self._name, self._source = file, source
        self._position = self._lines = 0
        self._unread = self._end = b""
        with readable(file):
            self._file = file.open_text()
            self._compressed = file.is_compressed
            try:
                head = self._file.peek()[:HEAD]
                check_format(head, file.name, source.scheme, source.pattern())
            except BaseException:
                self.close()
                raise

    def next_span(self, size: int) -> Span | None:
        """Return `size` bytes and the remainder of the last document; None at the end of the file.

        Raises:
            BadInputError: The file is damaged, or a document is too long.
        """
        data = None
        start, first_line = self._position, self._lines + 1
        with readable(self._name):
            if self._compressed:
                with io.BytesIO() as content:  # not a list, because there may be very many lines
                    content.writelines(self._documents(size))
                    data = content.getvalue()
                self._lines += data.count(b"\n")
                self._position += len(data)
            else:
                self._skip_documents(size)
                self._position = self._file.tell()
        if self._position == start:
            if not self._tail().endswith(self._source.end):
                end = self._source.end.decode()
                raise BadInputError(f"{self._name} has no end ({end}); download it again")
            return None
        if data is not None:
            self._end = data[-_TAIL:]
        return Span(self._name, start, self._position, data, first_line)

    def _tail(self) -> bytes:
        if self._source.end and not self._compressed:
            self._file.seek(max(0, self._name.size - _TAIL))
            self._end = self._file.read()
        return self._end.rstrip()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _skip_documents(self, size: int) -> None:
        self._file.seek(self._position)
        documents = self._source.read_documents(self._file, self._name, size)
        if documents is None:
            self._file.seek(min(self._position + size, self._name.size))
            documents = self._rest_of_document()
        for _ in documents:
            pass
        self._file.seek(-len(self._unread), io.SEEK_CUR)
        self._unread = b""

    def _documents(self, size: int) -> Iterator[bytes]:
        documents = self._source.read_documents(self._file, self._name, size)
        if documents is not None:
            yield from documents
            return
        first, self._unread = self._unread[:size], self._unread[size:]
        first += self._file.read(size - len(first))
        yield first
        if len(first) >= size:
            yield from self._rest_of_document()

    def _rest_of_document(self) -> Iterator[bytes]:
        """Read lines up to the next boundary.

        The first line is the rest of one that began earlier, so it shows no boundary.
        """
        size = 0
        previous: bytes | None = None
        while line := self._unread or self._file.readline(MAX_DOCUMENT):
            self._unread = b""
            if previous is not None and self._source.is_boundary(previous, line):
                self._unread = line
                return
            yield line
            if self._source.document_per_line:
                return
            previous = line if size else None
            size += len(line)
            if size > MAX_DOCUMENT:
                raise too_long(self._name, self._position + size)


def text_size(file: File) -> int:
    """Return the bytes of text in a file, or an estimate if it is compressed."""
    return file.size * (EXPANSION if file.is_compressed else 1)


def too_long(file: File, offset: int) -> BadInputError:
    """Make the error for a document that exceeds `MAX_DOCUMENT`."""
    return BadInputError(
        f"{file}: a document of more than {MAX_DOCUMENT >> 20} MiB ends after offset {offset};"
        " put a blank line between documents"
    )
