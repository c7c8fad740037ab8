"""Corpora of Common Crawl's WET files: the text of web pages as WARC records."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.documents import Document, paragraphs
from pipelines.data.sources.files import MAX_DOCUMENT, Span, SpanPiece, SpanSource
from pipelines.data.sources.locations import File
from pipelines.data.sources.source import OnBadRow, stop_at

_END = b"\r\n\r\n"  # of every record


@dataclass(frozen=True)
class WarcPiece(SpanPiece):
    """Some records of a file."""

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`. Only plain text is read, so not the HTML of WARC files.

        Raises:
            BadInputError: The file is damaged, or is a WARC file with web pages instead of text.
        """
        with io.BytesIO(self.span.read()) as content:
            while record := read_record(content, self.span.file):
                headers, payload, _ = record
                kind = headers.get(b"warc-type", b"")
                if kind == b"response":
                    raise BadInputError(
                        f"{self.span.file} holds web pages, not their text; use the WET file of the"
                        " same crawl, or extract the text and read it with jsonl:"
                    )
                content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
                if kind != b"conversion" or content_type != b"text/plain":
                    continue
                try:
                    document = paragraphs(payload.decode())
                except UnicodeDecodeError:
                    address = headers.get(b"warc-target-uri", b"?").decode("utf-8", "replace")
                    on_bad_row(f"{self.span.file}, record {address}", "it is not UTF-8")
                    continue
                if document:
                    yield document


def read_record(
    content: io.BufferedIOBase, file: File
) -> tuple[dict[bytes, bytes], bytes, bytes] | None:
    """Read a record: its headers in lower case, its content, and all its bytes; None at the end.

    Raises:
        BadInputError: The record is damaged.
    """
    lines = [content.readline(MAX_DOCUMENT)]
    while lines[-1] and not lines[-1].strip():
        lines.append(content.readline(MAX_DOCUMENT))
    if not lines[-1]:
        return None
    if not lines[-1].startswith(b"WARC/"):
        raise _damaged(file, "a record does not begin with WARC/")
    headers = {}
    while (line := content.readline(MAX_DOCUMENT)).strip():
        lines.append(line)
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    lines.append(line)
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or int(length) > MAX_DOCUMENT:
        raise _damaged(file, "a record has no valid Content-Length")
    payload = content.read(int(length) + len(_END))
    if not payload.endswith(_END) or len(payload) != int(length) + len(_END):
        raise _damaged(file, "a record is not as long as its Content-Length says")
    return headers, payload[: -len(_END)], b"".join([*lines, payload])


def _damaged(file: File, reason: str) -> BadInputError:
    return BadInputError(f"{file} is damaged or not a WARC file: {reason}; download it again")


class Warc(SpanSource):
    """WET files."""

    scheme = "warc"
    form = "warc:GLOB"
    summary = "WET files of Common Crawl: the text of a web page is a document"
    example = "warc:CC-MAIN-*.warc.wet.gz"
    example_file = (
        "a.warc.wet",
        "WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: 27\r\n"
        "\r\nA story.\nIt has two lines.\n\r\n\r\n",
    )

    def read_documents(self, content: io.BufferedReader, file: File, size: int) -> Iterator[bytes]:
        """See `SpanSource.read_documents`."""
        total = 0
        while total < size and (record := read_record(content, file)):
            yield record[2]
            total += len(record[2])

    def piece(self, span: Span) -> WarcPiece:
        return WarcPiece(span)
