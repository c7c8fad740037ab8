"""Corpora of the ``<doc>`` files of wikiextractor."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.documents import Document, paragraphs
from pipelines.data.sources.files import Span, SpanPiece, SpanSource
from pipelines.data.sources.source import OnBadRow, stop_at

_START = re.compile(r"<doc\s[^\n]*>\s*$")
_TITLE = re.compile(r'\btitle="(.*)"\s*>\s*$')  # it may contain quotes
_END = "</doc>"


@dataclass(frozen=True)
class DocPiece(SpanPiece):
    """Articles between ``<doc …>`` and ``</doc>``."""

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`. The title, which is the first line of an article, is dropped.

        Raises:
            BadInputError: The file cannot be read or is not UTF-8, or an article has no end.
        """
        lines: list[str] | None = None
        title = ""
        for offset, line in self.span.lines():
            text = self.span.text(offset, line).strip()
            if lines is None and text:
                if not _START.match(text):
                    raise BadInputError(f"{self.span.line(offset)}: expected <doc …>; {_REMEDY}")
                attribute = _TITLE.search(text)
                lines, title = [], attribute[1] if attribute else ""
            elif text == _END and lines is not None:
                body = lines[1:] if lines[:1] == [title] else lines
                if document := paragraphs(html.unescape("\n".join(body))):
                    yield document
                lines = None
            elif lines is not None and (text or lines):
                lines.append(text)
        if lines is not None:
            raise BadInputError(f"{self.span.file} ends within an article; {_REMEDY}")


_REMEDY = "run wikiextractor again"


class WikiExtractor(SpanSource):
    """Output of wikiextractor."""

    scheme = "wikiextractor"
    form = "wikiextractor:GLOB"
    summary = (
        "<doc> files of wikiextractor, without the titles; its JSON output is read with"
        " jsonl:GLOB#text"
    )
    example = "wikiextractor:text/*/wiki_*"
    example_file = (
        "wiki_00",
        '<doc id="1" url="https://example.org" title="A story">\nA story\n\nOne line &amp; more.\n'
        "Two lines.\n</doc>\n",
    )

    def is_boundary(self, line: bytes, following: bytes) -> bool:
        return line.strip() == _END.encode()

    def piece(self, span: Span) -> DocPiece:
        return DocPiece(span)
