"""Text and JSON Lines files, plain or compressed, cut into pieces at document boundaries.

A piece of a plain file is a range of bytes that a worker reads by itself. A compressed file can
only be read from its beginning, so its pieces carry their text. Where a file is cut depends on its
text alone: compressing it changes nothing.
"""

from __future__ import annotations

import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import check_kind

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Document = list[str]
Format = Literal["text", "jsonl"]

# One that takes more bytes is a file without blank lines, not a document.
MAX_DOCUMENT = 1 << 26
_LINE = 60  # bytes that a line takes beside its characters

_BUFFER = 1 << 20
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a surrogate: JSON can express it, UTF-8 cannot
_UNPACKERS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".xz": lzma.LZMADecompressor,
    ".zst": zstd.ZstdDecompressor,
}
# Little at a time, as four bytes of .zst may unpack to 128 KiB.
_PACKED_CHUNK = 1 << 10
# What text grows to when it is unpacked, roughly; only block sizes depend on it.
_EXPANSION = 3


@dataclass(frozen=True)
class FilePiece:
    """Whole documents of one file.

    Attributes:
        path: The file.
        form: Of the file.
        field: Of a JSON object that holds the text.
        start: Byte of the (unpacked) file with which the piece begins.
        end: The byte after its last.
        data: The bytes, if the file is compressed.
    """

    path: Path
    form: Format
    field: str
    start: int
    end: int
    data: bytes | None

    @property
    def origin(self) -> str:
        """The name of the file."""
        return str(self.path)

    def documents(self) -> Iterator[Document]:
        """The documents, each as its non-empty lines.

        Raises:
            BadInputError: The file cannot be read, or is not UTF-8 text of this form.
        """
        return self._text() if self.form == "text" else self._jsonl()

    def _text(self) -> Iterator[Document]:
        document: Document = []
        size = 0
        for offset, line in self._lines():
            size += len(line) + _LINE
            if size > MAX_DOCUMENT:
                raise _too_long(self.path, offset)
            if text := line.strip():
                document.append(text)
            else:
                if document:
                    yield document
                document, size = [], 0
        if document:
            yield document

    def _jsonl(self) -> Iterator[Document]:
        for offset, line in self._lines():
            if not line.strip():
                continue
            try:
                text = json.loads(line)[self.field]
            except KeyError as error:
                raise BadInputError(
                    f"{self.path}: the object at offset {offset} has no field {error}; name the"
                    " one that holds the text, as in jsonl:FILE#FIELD"
                ) from None
            except (ValueError, TypeError, RecursionError):
                raise BadInputError(
                    f"{self.path}: the line at offset {offset} is not a JSON object"
                ) from None
            if not isinstance(text, str) or "\0" in text or HALF_CHARACTER.search(text):
                raise BadInputError(
                    f"{self.path}: field {self.field!r} at offset {offset} is not a text, or holds"
                    " NUL or half of a character"
                )
            if document := paragraphs(text):
                yield document

    def _lines(self) -> Iterator[tuple[int, str]]:
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
                        " is it binary, or UTF-16?"
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
            raise BadInputError(f"{self.path} has become shorter while it was read")
        return data


class FileCutter:
    """Cuts one file into pieces, from its beginning to its end."""

    def __init__(self, path: Path, form: Format, field: str) -> None:
        """Opens the file."""
        self._path, self._form, self._field = path, form, field
        self._position = 0
        with readable(path):
            self._file: IO[bytes] = path.open("rb")
            self._compressed = path.suffix in _UNPACKERS
            if self._compressed:
                unpacked = _Unpacked(self._file, _UNPACKERS[path.suffix])
                self._file = io.BufferedReader(unpacked, _BUFFER)
        self.size = text_size(path)

    def take(self, wanted: int) -> FilePiece | None:
        """The next piece: `wanted` bytes and what is left of the last document; None at the end.

        Raises:
            BadInputError: The file is damaged, or a document does not end.
        """
        with readable(self._path):
            data = None
            start = self._position
            if self._compressed:
                first = self._file.read(wanted)
                with io.BytesIO() as rest:  # not a list, as its lines may be very many
                    rest.writelines(self._rest_of_document() if len(first) == wanted else ())
                    data = first + rest.getbuffer()
                self._position += len(data)
            else:
                self._file.seek(min(start + wanted, self.size))
                for _ in self._rest_of_document():
                    pass
                self._position = self._file.tell()
        if self._position == start:
            return None
        return FilePiece(self._path, self._form, self._field, start, self._position, data)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _rest_of_document(self) -> Iterator[bytes]:
        """Lines up to and including the next boundary.

        The first line is the rest of one that began earlier, so it is never taken for a blank one.
        """
        size = 0
        first = True
        while line := self._file.readline(MAX_DOCUMENT):
            yield line
            size += len(line)
            if size > MAX_DOCUMENT:
                raise _too_long(self._path, self._position + size)
            if self._form == "jsonl" or not (first or line.strip()):
                return
            first = False


class _Unpacked(io.RawIOBase):
    """The text of a compressed file, whose streams may follow each other.

    Unlike `lzma.LZMAFile` and its like it takes a second stream that does not begin as one should
    for damage, not for the end.
    """

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        self._file, self._make = file, make
        self._unpacker = make()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._file.read(_PACKED_CHUNK)
            if self._unpacker.eof:
                packed = (self._unpacker.unused_data + packed).lstrip(b"\0")  # padding
                if not packed:
                    return 0
                self._unpacker = self._make()
            elif not packed:
                raise EOFError("it ends before its end")
            self._ready = self._unpacker.decompress(packed)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def paragraphs(text: str) -> Document:
    """The non-empty lines of a text."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def text_size(path: Path) -> int:
    """Bytes of text in a file; of a compressed one an estimate."""
    with readable(path):
        return path.stat().st_size * (_EXPANSION if path.suffix in _UNPACKERS else 1)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what can be wrong with a file into one line."""
    check_kind(path)
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
    except (EOFError, lzma.LZMAError, zlib.error, zstd.ZstdError) as error:
        raise BadInputError(f"{path} is damaged: {error}") from None


def _too_long(path: Path, offset: int) -> BadInputError:
    return BadInputError(
        f"{path}: a document of more than {MAX_DOCUMENT >> 20} MiB ends after offset {offset};"
        " put a blank line between documents"
    )
