"""Corpora of JSON Lines files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.data.sources.documents import Document
from pipelines.data.sources.files import Span, SpanPiece, SpanSource
from pipelines.data.sources.rows import BadRowError, Fields, documents_of_rows
from pipelines.data.sources.source import OnBadRow, stop_at


@dataclass(frozen=True)
class JsonPiece(SpanPiece):
    """A JSON object per line."""

    fields: Fields

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`."""
        rows = ((offset, parsed(line)) for offset, line in self.span.lines() if line.strip())
        return documents_of_rows(rows, self.fields, self.span.line, on_bad_row)


class JsonLines(SpanSource):
    """JSON Lines files, plain or compressed."""

    scheme = "jsonl"
    has_fragment = True
    form = "jsonl:GLOB[#FIELD[@KEY]]"
    summary = (
        'a JSON object per line, with the text of a document in FIELD (default "text"); with KEY,'
        " consecutive rows of one KEY are a document"
    )
    example = "jsonl:crawl/*.jsonl.zst#body"
    example_file = ("a.jsonl", '{"text": "A \\u201cstory\\u201d.\\nIt has two lines."}\n')

    def __init__(self, spec: str) -> None:
        """Find the files; see `FileSource` for the errors."""
        super().__init__(spec)
        self._fields = Fields.parse(self.fragment())
        self.document_per_line = not self._fields.key

    def is_boundary(self, line: bytes, following: bytes) -> bool:
        """See `SpanSource.is_boundary`; a group of rows is not cut."""
        return self._fields.may_cut(parsed(line), parsed(following))

    def piece(self, span: Span) -> JsonPiece:
        """See `SpanSource.piece`."""
        return JsonPiece(span, self._fields)


def parsed(line: bytes) -> Any:
    """Parse a line; return a BadRowError if it is not JSON."""
    try:
        return json.loads(line.replace(b"\0", b""))  # as BERT does
    except UnicodeDecodeError as error:
        return BadRowError(f"byte {error.start + 1} of the line is not UTF-8")
    except json.JSONDecodeError as error:
        return BadRowError(f"column {error.colno} is not JSON ({error.msg})")
    except (ValueError, RecursionError) as error:  # huge numbers, very deep lists
        return BadRowError(f"it cannot be read as JSON: {error}")
