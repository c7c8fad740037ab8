"""What the first bytes of a file say about its format.

A file of another format than the specification names would be learned with its markup, or fail with
an error that leads astray.
"""

from __future__ import annotations

import re
import struct
from pathlib import PurePosixPath

from bert_jax.runtime.errors import BadInputError
from pipelines.masked_crc import masked_crc

HEAD = 4096  # bytes

# Bytes of the beginning, name, and the specification to use.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", "parquet:{pattern}#text"),
    (b"ARROW1", "an Arrow file", "arrow:{folder}#text"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "arrow:{folder}#text"),
    (b"\x83\xaf\x70\xd1", "an array_record file", "array_record:{pattern}#text"),
    (b"BZh", "compressed with bzip2", "rename it to end with .bz2"),
    (b"\x1f\x8b", "compressed with gzip", "rename it to end with .gz"),
    (b"\xfd7zXZ\0", "compressed with xz", "rename it to end with .xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "rename it to end with .zst"),
    (b"%PDF-", "a PDF document", "extract its text, for example with pdftotext"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"version https://git-lfs", "a pointer of Git LFS", "run git lfs pull in its repository"),
    (b"\xff\xfe", "UTF-16 text", "convert it with iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it with iconv -f utf-16 -t utf-8"),
)
_PATTERNS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"\s*(<\?xml[^>]*>\s*)?<mediawiki\b"),
        "a dump of a wiki",
        "wikipedia:{pattern}",
    ),
    (re.compile(rb"\s*<doc id="), "output of wikiextractor", "wikiextractor:{pattern}"),
    (re.compile(rb"WARC/\d"), "a web archive", "warc:{pattern}"),
    (re.compile(rb"\s*(<\?xml|<!DOCTYPE|<html)", re.IGNORECASE), "XML or HTML", "extract its text"),
    (re.compile(rb"\s*\{\s*\"[^\"\n]*\"\s*:"), "JSON Lines", "jsonl:{pattern}#text"),
    (re.compile(rb"\s*\[\s*\{\s*\""), "a JSON array", "json:{pattern}#text"),
)
_TFRECORD = ("a TFRecord file", "tfrecord:{pattern}#text")
_TAR = slice(257, 262)
# Tables begin like text.
_TABLES = {".csv": "commas", ".tsv": "tabs"}
# Formats that are recognized for certain: a file that is not recognized has another format.
_CERTAIN = ("parquet", "tfrecord", "array_record", "wikipedia", "wikiextractor", "warc")


def check_format(head: bytes, name: str, scheme: str, pattern: str) -> None:
    """Refuse a file whose first bytes belong to another format.

    Args:
        head: The first bytes of the file, decompressed if its suffix says so.
        name: The name of the file.
        scheme: The scheme that is to read it.
        pattern: The files that the specification names, for the remedy.

    Raises:
        BadInputError: The file has another format; the message names it and the remedy.
    """
    path = PurePosixPath(name)
    kind, remedy = recognize(head) or ("", "")
    if not kind and scheme in ("text", "files") and path.suffix in _TABLES:
        kind = f"a table of values between {_TABLES[path.suffix]}"
        remedy = "convert it to JSON Lines or Parquet"
    if not kind and head and scheme in _CERTAIN:
        kind, remedy = f"not of the format {scheme}", "check it, or read text with text:GLOB"
    if not kind or remedy.partition(":")[0] == scheme:
        return
    if "{" in remedy:
        remedy = f"read it with --corpus '{remedy.format(pattern=pattern, folder=path.parent)}'"
    raise BadInputError(f"{name} is {kind}; {remedy}")


def recognize(head: bytes) -> tuple[str, str] | None:
    """Return the kind of a file and the remedy; None for text and unknown formats."""
    for signature, kind, remedy in _SIGNATURES:
        if head.startswith(signature):
            return kind, remedy
    if is_tfrecord(head):
        return _TFRECORD
    if head[_TAR] == b"ustar":
        return "a tar archive", "unpack it first"
    for pattern, kind, remedy in _PATTERNS:
        if pattern.match(head.removeprefix(b"\xef\xbb\xbf")):
            return kind, remedy
    if head.count(0) > len(head) // 8:
        return "binary, or UTF-16 text", "convert it to UTF-8 text"
    return None


def is_tfrecord(head: bytes) -> bool:
    """Return whether the first bytes are the length of a record and its checksum."""
    if len(head) < 12:
        return False
    checksum: int = struct.unpack("<I", head[8:12])[0]
    return masked_crc(head[:8]) == checksum
