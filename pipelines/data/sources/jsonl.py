"""Corpora of JSON Lines files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.documents import Document, paragraphs
from pipelines.data.sources.files import HALF_CHARACTER, FilePiece, FileSource, Span


@dataclass(frozen=True)
class JsonPiece(FilePiece):
    """JSON objects, each with a document in `field`."""

    field: str

    def documents(self) -> Iterator[Document]:
        """See `Piece.documents`.

        Raises:
            BadInputError: The file cannot be read, or a line is not a JSON object with such a text.
        """
        for offset, line in self.span.lines():
            if not line.strip():
                continue
            try:
                text = json.loads(line)[self.field]
            except KeyError as error:
                raise BadInputError(
                    f"{self.span.path}: the object at offset {offset} has no field {error};"
                    " name the field that contains the text, as in jsonl:FILE#FIELD"
                ) from None
            except (ValueError, TypeError, RecursionError):
                raise BadInputError(
                    f"{self.span.path}: the line at offset {offset} is not a JSON object;"
                    " write one object per line"
                ) from None
            if not isinstance(text, str) or "\0" in text or HALF_CHARACTER.search(text):
                raise BadInputError(
                    f"{self.span.path}: field {self.field!r} at offset {offset} is not a text, or"
                    " contains NUL or half of a surrogate pair; correct or remove the line"
                )
            if document := paragraphs(text):
                yield document


class JsonLines(FileSource):
    """JSON Lines files, plain or compressed."""

    scheme = "jsonl"
    form = "jsonl:GLOB#FIELD"
    summary = 'a JSON object per line, with the text of a document in FIELD (default "text")'
    example = "jsonl:crawl/*.jsonl.zst#body"
    example_file = ("a.jsonl", '{"text": "A \\u201cstory\\u201d.\\nIt has two lines."}\n')
    document_per_line = True

    def pattern(self) -> str:
        """See `FileSource.pattern`."""
        return self.name.partition("#")[0]

    def piece(self, span: Span) -> JsonPiece:
        """See `FileSource.piece`."""
        return JsonPiece(span, self.name.partition("#")[2] or "text")
