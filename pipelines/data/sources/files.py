"""Files of text, plain or compressed, cut at the boundaries of documents.

A span of a plain file is a range of bytes that a worker reads by itself. A compressed file can only
be read from its beginning, so its spans carry their text. Where a file is cut depends on its text
alone, not on its compression.
"""

from __future__ import annotations

import glob
import io
import lzma
import os
import re
import sys
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import check_kind
from pipelines.data.sources.documents import Document
from pipelines.data.sources.source import Piece, Source

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Bytes. A file with a longer document has no blank lines.
MAX_DOCUMENT = 1 << 26

_BUFFER = 1 << 20
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a surrogate: JSON can express it, UTF-8 cannot
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".xz": lzma.LZMADecompressor,
    ".zst": zstd.ZstdDecompressor,
}
# Small, because four bytes of .zst may decompress to 128 KiB.
_COMPRESSED_CHUNK = 1 << 10
# Estimated growth of a compressed text; only block sizes depend on it.
_EXPANSION = 3


@dataclass(frozen=True)
class Span:
    """Whole documents of one file.

    Attributes:
        path: The file.
        start: Offset of the first byte in the (decompressed) file.
        end: Offset behind the last byte.
        data: The bytes, if the file is compressed.
    """

    path: Path
    start: int
    end: int
    data: bytes | None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Read the lines, each with its offset in the file.

        Raises:
            BadInputError: The file cannot be read, or is not UTF-8 text.
        """
        offset = self.start
        with readable(self.path), io.BytesIO(self._read()) as lines:
            for line in lines:
                try:
                    text = line.decode("utf-8-sig" if offset == 0 else "utf-8")
                except UnicodeDecodeError as error:
                    raise BadInputError(
                        f"{self.path} is not UTF-8: byte 0x{line[error.start]:02x} at offset"
                        f" {offset + error.start}; convert it, for example with"
                        f" iconv -f latin1 -t utf-8 '{self.path}'"
                    ) from None
                if "\0" in text:
                    raise BadInputError(
                        f"{self.path} is not text: NUL byte at offset {offset + line.index(0)};"
                        " check whether it is binary or UTF-16"
                    )
                yield offset, text
                offset += len(line)

    def _read(self) -> bytes:
        if self.data is not None:
            return self.data
        with self.path.open("rb") as file:
            file.seek(self.start)
            data = file.read(self.end - self.start)
        if len(data) != self.end - self.start:
            raise BadInputError(f"{self.path} was truncated while it was read; run again")
        return data


@dataclass(frozen=True)
class FilePiece(Piece):
    """A span and how to parse it."""

    span: Span

    @property
    def origin(self) -> str:
        """See `Piece.origin`."""
        return str(self.span.path)

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """See `Piece.documents`."""


class FileSource(Source):
    """Files that match a pattern, in the order of their names.

    Attributes:
        document_per_line: Whether every line is a document; otherwise a blank line ends one.
    """

    document_per_line: ClassVar[bool]

    def __init__(self, spec: str) -> None:
        """Find the files.

        Raises:
            BadInputError: No file matches.
        """
        super().__init__(spec)
        # Not Path.glob, which rejects absolute patterns.
        pattern = os.path.expanduser(self.pattern())  # noqa: PTH111
        paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
        self._paths = [path for path in paths if path.is_file()]
        if not self._paths:
            is_folder = Path(pattern).is_dir()
            hint = f"to read a folder, write {self.scheme}:{pattern}/*" if is_folder else "check it"
            raise BadInputError(f"corpus {spec!r}: no file matches {pattern}; {hint}")

    def pattern(self) -> str:
        """Return the pattern of the file names in the specification."""
        return self.name

    @abstractmethod
    def piece(self, span: Span) -> FilePiece:
        """Return the piece that parses a span."""

    def size(self) -> int:
        """See `Source.size`."""
        return sum(map(text_size, self._paths))

    def files(self) -> list[Any]:
        """See `Source.files`."""
        return [[str(path), path.stat().st_size] for path in self._paths]

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """See `Source.pieces`; small files are grouped."""
        pieces: list[FilePiece] = []
        total = 0
        for path in self._paths:
            cutter = FileCutter(path, self.document_per_line)
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

    def __init__(self, path: Path, document_per_line: bool) -> None:
        """Open the file."""
        self._path, self._document_per_line = path, document_per_line
        self._position = 0
        with readable(path):
            self._file: IO[bytes] = path.open("rb")
            self._compressed = path.suffix in _DECOMPRESSORS
            if self._compressed:
                stream = _Decompressed(self._file, _DECOMPRESSORS[path.suffix])
                self._file = io.BufferedReader(stream, _BUFFER)
        self.size = text_size(path)

    def next_span(self, size: int) -> Span | None:
        """Return `size` bytes and the remainder of the last document; None at the end of the file.

        Raises:
            BadInputError: The file is damaged, or a document is too long.
        """
        with readable(self._path):
            data = None
            start = self._position
            if self._compressed:
                first = self._file.read(size)
                with io.BytesIO() as rest:  # not a list, because there may be very many lines
                    rest.writelines(self._rest_of_document() if len(first) == size else ())
                    data = first + rest.getbuffer()
                self._position += len(data)
            else:
                self._file.seek(min(start + size, self.size))
                for _ in self._rest_of_document():
                    pass
                self._position = self._file.tell()
        if self._position == start:
            return None
        return Span(self._path, start, self._position, data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rest_of_document(self) -> Iterator[bytes]:
        """Read lines up to and including the next boundary.

        The first line is the rest of one that began earlier, so it never counts as blank.
        """
        size = 0
        first = True
        while line := self._file.readline(MAX_DOCUMENT):
            yield line
            size += len(line)
            if size > MAX_DOCUMENT:
                raise too_long(self._path, self._position + size)
            if self._document_per_line or not (first or line.strip()):
                return
            first = False


class _Decompressed(io.RawIOBase):
    """The text of a compressed file, which may consist of several streams.

    Unlike `lzma.LZMAFile` and its like, a second stream with a wrong header raises an error instead
    of ending the file.
    """

    def __init__(self, file: IO[bytes], make_decompressor: Callable[[], Any]) -> None:
        self._file, self._make = file, make_decompressor
        self._decompressor = make_decompressor()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            compressed = self._file.read(_COMPRESSED_CHUNK)
            if self._decompressor.eof:
                compressed = (self._decompressor.unused_data + compressed).lstrip(b"\0")  # padding
                if not compressed:
                    return 0
                self._decompressor = self._make()
            elif not compressed:
                raise EOFError("unexpected end of file")
            self._ready = self._decompressor.decompress(compressed)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def text_size(path: Path) -> int:
    """Return the bytes of text in a file, or an estimate if it is compressed."""
    with readable(path):
        return path.stat().st_size * (_EXPANSION if path.suffix in _DECOMPRESSORS else 1)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into BadInputError."""
    check_kind(path)
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
    except (EOFError, lzma.LZMAError, zlib.error, zstd.ZstdError) as error:
        raise BadInputError(f"{path} is damaged: {error}; restore it") from None


def too_long(path: Path, offset: int) -> BadInputError:
    """Make the error for a document that exceeds `MAX_DOCUMENT`."""
    return BadInputError(
        f"{path}: a document of more than {MAX_DOCUMENT >> 20} MiB ends after offset {offset};"
        " put a blank line between documents"
    )
