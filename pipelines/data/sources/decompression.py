"""Compressed files, recognized by their suffix."""

from __future__ import annotations

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".bz2": bz2.BZ2Decompressor,
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".xz": lzma.LZMADecompressor,
    ".zst": zstd.ZstdDecompressor,
}
# Estimated growth of a compressed text; only block sizes depend on it.
EXPANSION = 3
# Small, because four bytes of .zst may decompress to 128 KiB.
_CHUNK = 1 << 10
_BUFFER = 1 << 20


class DecompressionError(Exception):
    """The compressed data is damaged."""


def decompressed(file: IO[bytes], suffix: str) -> io.BufferedReader:
    """Return the text of a compressed file; `suffix` is a key of `DECOMPRESSORS`."""
    return io.BufferedReader(_Decompressed(file, DECOMPRESSORS[suffix]), _BUFFER)


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
            compressed = self._file.read(_CHUNK)
            if self._decompressor.eof:
                compressed = (self._decompressor.unused_data + compressed).lstrip(b"\0")  # padding
                if not compressed:
                    return 0
                self._decompressor = self._make()
            elif not compressed:
                raise EOFError("unexpected end of file")
            self._ready = self._decompress(compressed)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompress(self, compressed: bytes) -> bytes:
        try:
            text: bytes = self._decompressor.decompress(compressed)
        except (OSError, lzma.LZMAError, zlib.error, zstd.ZstdError) as error:
            # The module of bz2 raises OSError, which would read like a failure of the disk.
            raise DecompressionError(str(error)) from None
        return text

    def close(self) -> None:
        self._file.close()
        super().close()
