"""Files on this machine or at any URL of fsspec, read in ranges.

A local path needs no fsspec.
"""

from __future__ import annotations

import fnmatch
import glob
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.runtime.paths import check_kind
from pipelines.data.sources import remote
from pipelines.data.sources.decompression import DECOMPRESSORS, DecompressionError, decompressed

_BUFFER = 1 << 22  # bytes of one request
_HTTP = ("http", "https")


@dataclass(frozen=True)
class File:
    """A file of a corpus.

    Attributes:
        name: Its path or URL.
        size: Its bytes.
    """

    name: str
    size: int

    def __str__(self) -> str:
        """Return the name, for messages."""
        return self.name

    @property
    def suffix(self) -> str:
        """The last suffix of the name, such as ``.gz``."""
        return PurePosixPath(self.name.partition("?")[0]).suffix

    @property
    def content_suffix(self) -> str:
        """The suffix of the name without that of a compression, in lower case."""
        path = PurePosixPath(self.name.partition("?")[0].lower())
        return PurePosixPath(path.stem).suffix if path.suffix in DECOMPRESSORS else path.suffix

    def open(self) -> io.BufferedReader:
        """Open the file to read bytes at any position."""
        if is_url(self.name):
            return io.BufferedReader(_RangeReader(self), _BUFFER)
        return Path(self.name).open("rb")

    def open_text(self) -> io.BufferedReader:
        """Open the file; decompress it if its suffix says so."""
        content = self.open()
        return decompressed(content, self.suffix) if self.is_compressed else content

    @property
    def is_compressed(self) -> bool:
        """Whether the suffix is that of a compressed file."""
        return self.suffix in DECOMPRESSORS


def is_url(name: str) -> bool:
    """Return True for ``PROTOCOL://…``."""
    protocol, separator, _ = name.partition("://")
    return bool(separator) and protocol.isalnum()


def escaped(name: str) -> str:
    """Return the pattern that matches a path alone; a URL is not changed."""
    return name if is_url(name) else glob.escape(name)


def find(pattern: str) -> list[File]:
    """List the files that match a pattern, sorted by name; `pattern` is a path or a URL.

    Raises:
        BadInputError: The protocol is unknown or its package is missing; access is denied.
        UnreachableError: The server does not respond.
    """
    if not is_url(pattern):
        # Not Path.glob, which rejects absolute patterns.
        names = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))  # noqa: PTH111, PTH207
        return [File(name, Path(name).stat().st_size) for name in names if Path(name).is_file()]
    server, separator, path = pattern.partition("://")
    first, *patterns = path.split("/")
    matches = _matches(f"{server}{separator}{first}", patterns, is_http=server in _HTTP)
    by_url = {each.url: each for each in matches}
    return [_file(by_url[url]) for url in sorted(by_url)]


def existing(name: str | Path) -> File:
    """Return the file of a path or URL; `name` is not a pattern.

    Raises:
        BadInputError: There is no such file; see `find` for other errors.
    """
    with readable(name):
        if files := find(escaped(str(name))):
            return files[0]
        if not is_url(str(name)):
            Path(name).open("rb").close()  # raises the error that says why
    raise BadInputError(f"{name} does not exist; check it")


def _matches(folder: str, patterns: list[str], *, is_http: bool) -> Iterator[remote.Entry]:
    """Yield the files below a URL that match the parts of a pattern.

    This is not the glob of fsspec, which takes a folder that cannot be listed for an empty one.
    """
    names = list(takewhile(lambda part: not _has_magic(part, is_http), patterns))
    url = "/".join([folder, *names])
    if names == patterns:
        file = remote.entry(url)
        if file is not None and not file.is_folder:
            yield file
        return
    unmatched = patterns[len(names) :]
    part, *rest = unmatched
    is_deep = part == "**"
    if is_deep and rest:
        yield from _matches(url, rest, is_http=is_http)
    for each in remote.entries(f"{url}/"):
        # An HTTP server may link to other orders of the list.
        if (is_http and "?" in each.name) or not _is_match(each.name, part, is_http):
            continue
        if each.is_folder and (rest or is_deep):
            deeper = unmatched if is_deep else rest
            yield from _matches(each.url.rstrip("/"), deeper, is_http=is_http)
        elif not each.is_folder and not rest:
            yield each


def _has_magic(part: str, is_http: bool) -> bool:
    return glob.has_magic(part.replace("?", "") if is_http else part)


def _is_match(name: str, part: str, is_http: bool) -> bool:
    """Compare a name with a part of a pattern, as the module glob does."""
    pattern = part.replace("?", "[?]") if is_http else part
    is_hidden = name.startswith(".") and not part.startswith(".")
    return not is_hidden and fnmatch.fnmatchcase(name, pattern)


def _file(each: remote.Entry) -> File:
    complete = each if each.size is not None else remote.entry(each.url)
    if complete is None:
        raise BadInputError(f"{each.url} is listed, but does not exist; check its server")
    if complete.size is None:
        raise BadInputError(
            f"{each.url}: its server does not state the size of the file; download it first"
        )
    return File(complete.url, complete.size)


def is_folder(name: str) -> bool:
    """Return True if a folder of this name exists."""
    if not is_url(name):
        return Path(name).expanduser().is_dir()
    if name.partition("://")[0] in _HTTP:
        return name.endswith("/")
    entry = remote.entry(name.rstrip("/"))
    return entry is not None and entry.is_folder


@contextmanager
def readable(name: str | Path | File) -> Iterator[None]:
    """Turn the errors of reading a file into one line.

    Raises:
        BadInputError: The file is missing, damaged or not readable.
        UnreachableError: A server does not respond.
    """
    if not is_url(str(name)):
        check_kind(Path(str(name)))
    try:
        yield
    except UserError:
        raise
    except (EOFError, zlib.error, lzma.LZMAError, DecompressionError) as error:
        raise BadInputError(f"{name} is damaged: {error}; restore it") from None
    except OSError as error:
        raise BadInputError(f"{name}: {error.strerror or error}") from None


class _RangeReader(io.RawIOBase):
    """Reads a file at a URL, one range per request."""

    def __init__(self, file: File) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readall(self) -> bytes:
        """Read the rest; the default implementation requests a few kilobytes at a time."""
        with io.BytesIO() as content:
            while data := self._next(self._file.size):
                content.write(data)
            return content.getvalue()

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        end = min(self._position + min(size, _BUFFER), self._file.size)
        if end <= self._position:
            return b""
        data = remote.read_range(self._file.name, self._position, end, self._file.size)
        self._position = end
        return data
