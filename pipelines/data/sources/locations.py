"""Files on this machine or at any URL of fsspec, read in ranges.

A local path needs no fsspec. A file at a URL is read with stateless requests of ranges, so a reset
connection, a busy server and a truncated answer are all handled in one place: the range is
requested again.
"""

from __future__ import annotations

import glob
import io
import lzma
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from bert_jax.runtime.errors import BadInputError, UnreachableError, UserError
from bert_jax.runtime.paths import check_kind
from pipelines.data.sources.decompression import DecompressionError

_BUFFER = 1 << 22  # bytes of one request
_TRIES = 5
_FIRST_WAIT = 0.5  # seconds before the second try; doubled for each further one
# The package of each protocol that fsspec cannot open alone, and our extra that installs it.
_PACKAGES = {
    "gs": "'bert-jax[cloud]'", "gcs": "'bert-jax[cloud]'", "s3": "s3fs",
    "http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub",
}  # fmt: skip


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

    def open(self) -> io.BufferedReader:
        """Open the file to read bytes at any position."""
        if is_url(self.name):
            return io.BufferedReader(_RangeReader(self), _BUFFER)
        return Path(self.name).open("rb")


def is_url(name: str) -> bool:
    """Return True for ``PROTOCOL://…``."""
    protocol, separator, _ = name.partition("://")
    return bool(separator) and protocol.isalnum()


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
    system = _file_system(pattern)
    protocol = pattern.partition("://")[0]
    with readable(pattern):
        details = _retried(lambda: _details(system, pattern))
    files = []
    for name, detail in sorted(details.items()):
        if detail["type"] != "file":
            continue
        url = name if is_url(name) else f"{protocol}://{name}"
        if detail.get("size") is None:
            raise BadInputError(
                f"{url}: its server does not tell the size of the file; download it first"
            )
        files.append(File(url, detail["size"]))
    return files


def _details(system: Any, pattern: str) -> dict[str, Any]:
    if glob.has_magic(pattern):
        found: dict[str, Any] = system.glob(pattern, detail=True)
        return found
    try:
        return {pattern: system.info(pattern)}
    except FileNotFoundError:
        return {}


def is_folder(name: str) -> bool:
    """Return True if a folder of this name exists."""
    if not is_url(name):
        return Path(name).expanduser().is_dir()
    with readable(name):
        return bool(_file_system(name).isdir(name))


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
        if is_url(str(name)) and not isinstance(error, PermissionError | FileNotFoundError):
            raise _unreachable(name, error) from None
        raise BadInputError(f"{name}: {error.strerror or error}") from None
    except Exception as error:  # every client has classes of its own
        if is_url(str(name)) and type(error).__module__.partition(".")[0] in _CLIENTS:
            raise _unreachable(name, error) from None
        raise


# Packages that raise the failures of servers.
_CLIENTS = {"aiohttp", "asyncio", "botocore", "aiobotocore", "fsspec", "gcsfs", "google", "httpx",
            "huggingface_hub", "requests", "s3fs", "urllib3"}  # fmt: skip


def _unreachable(name: str | Path | File, error: Exception) -> UnreachableError:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return UnreachableError(f"{name}: {text}; run the same command again when it can be reached")


@cache
def _file_system(url: str) -> Any:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)
    except ImportError:
        package = _PACKAGES.get(protocol, f"the package of fsspec for {protocol}")
        raise BadInputError(f"{url} needs another package: pip install {package}") from None
    except ValueError:
        raise BadInputError(f"{url}: fsspec has no protocol {protocol!r}; correct it") from None


def _retried(request: Any) -> Any:
    """Call `request` until it succeeds; give up after some tries."""
    for attempt in range(_TRIES):
        try:
            return request()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception:
            if attempt == _TRIES - 1:
                raise
            time.sleep(_FIRST_WAIT * 2**attempt)
    raise AssertionError


class _RangeReader(io.RawIOBase):
    """Reads a file at a URL, one range per request."""

    def __init__(self, file: File) -> None:
        self._file, self._position = file, 0
        protocol = file.name.partition("://")[0]
        self._system = _file_system(f"{protocol}://")

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

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._file.size)
        if end <= self._position:
            return 0

        def request() -> bytes:
            data: bytes = self._system.cat_file(self._file.name, self._position, end)
            if len(data) != end - self._position:
                raise OSError(f"{len(data)} of {end - self._position} bytes were received")
            return data

        with readable(self._file):
            data = _retried(request)
        buffer[: len(data)] = data
        self._position = end
        return len(data)
