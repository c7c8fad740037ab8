"""Corpora of plain text files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.data.sources import files
from pipelines.data.sources.documents import Document
from pipelines.data.sources.files import Span, SpanPiece, SpanSource
from pipelines.data.sources.source import OnBadRow, stop_at
from pipelines.data.sources.wrapping import joined

_JOIN = "#join"
_LINE_OVERHEAD = 60  # bytes of memory of a line beside its characters


@dataclass(frozen=True)
class TextPiece(SpanPiece):
    """Documents separated by blank lines; `is_wrapped` if each is one paragraph."""

    is_wrapped: bool

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`.

        Raises:
            BadInputError: The file cannot be read, is not UTF-8, or a document is too long.
        """
        document: Document = []
        size = 0
        for offset, line in self.span.lines():
            size += len(line) + _LINE_OVERHEAD
            if size > files.MAX_DOCUMENT:
                raise files.too_long(self.span.file, offset)
            if text := self.span.text(offset, line).strip():
                document.append(text)
            else:
                if document:
                    yield self._unwrapped(document)
                document, size = [], 0
        if document:
            yield self._unwrapped(document)

    def _unwrapped(self, document: Document) -> Document:
        return [joined(document)] if self.is_wrapped else document


class TextFiles(SpanSource):
    """UTF-8 text files, plain or compressed."""

    scheme = "text"
    form = "text:GLOB[#join]"
    summary = (
        "UTF-8 text: a sentence or paragraph per line, a blank line between documents (#join: the"
        " lines of a document are one paragraph)"
    )
    example = "text:books/*.txt"
    example_file = (
        "a.txt",
        "A story of \u201cwords\u201d, the 3rd.\nIt has two lines.\n\nAnother one, h\u00e9las.\n",
    )

    def pattern(self) -> str:
        """See `FileSource.pattern`; a name may contain any character."""
        return self.name.removesuffix(_JOIN)

    def is_boundary(self, line: bytes, following: bytes) -> bool:
        return not line.strip()

    def piece(self, span: Span) -> TextPiece:
        return TextPiece(span, self.name.endswith(_JOIN))
