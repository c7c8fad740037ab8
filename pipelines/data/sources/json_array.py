"""Corpora of JSON files that are one array of objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.documents import Document
from pipelines.data.sources.files import FileSource, text_size
from pipelines.data.sources.locations import File, readable
from pipelines.data.sources.recognition import HEAD, check_format
from pipelines.data.sources.rows import Fields, documents_of_rows
from pipelines.data.sources.source import OnBadRow, Piece, stop_at


@dataclass(frozen=True)
class CarriedRows(Piece):
    """Rows that are carried, because an array can only be read from its beginning."""

    file: File
    fields: Fields
    first: int
    carried: tuple[Any, ...]

    @property
    def origin(self) -> str:
        return self.file.name

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`."""
        rows = enumerate(self.carried, self.first)
        return documents_of_rows(rows, self.fields, self._position, on_bad_row)

    def _position(self, number: int) -> str:
        return f"{self.file}, row {number + 1:,}"


class JsonArrays(FileSource):
    """Files with an array of objects each."""

    scheme = "json"
    has_fragment = True
    form = "json:GLOB[#FIELD[@KEY]]"
    summary = 'a JSON array of objects per file; the text is in FIELD (default "text")'
    example = "json:stories.json#body"
    example_file = (
        "a.json",
        '[{"text": "A \\u201cstory\\u201d.\\nIt has two lines."},\n {"text": "Another."}]\n',
    )

    def __init__(self, spec: str) -> None:
        """Find the files; see `FileSource` for the errors."""
        super().__init__(spec)
        self._fields = Fields.parse(self.fragment())

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        for file in self.corpus_files:
            carried: list[Any] = []
            first = total = 0
            remaining = text_size(file)
            for row in _objects(file, self.pattern()):
                if total >= size and self._fields.may_cut(carried[-1], row):
                    yield (CarriedRows(file, self._fields, first, tuple(carried)),), total
                    remaining -= total
                    first, total, carried = first + len(carried), 0, []
                carried.append(row)
                total += len(str(row))
            if carried:
                yield (CarriedRows(file, self._fields, first, tuple(carried)),), max(0, remaining)


def _objects(file: File, pattern: str) -> Iterator[Any]:
    """Yield the elements of the array in a file.

    Raises:
        BadInputError: The file is damaged or holds no array.
    """
    import ijson

    with readable(file), file.open_text() as text:
        head = text.peek()[:HEAD]
        check_format(head, file.name, JsonArrays.scheme, pattern)
        if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            raise BadInputError(f"{file} is not a JSON array; write [{{…}}, …]")
        try:
            yield from ijson.items(text, "item", use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:150]
            raise BadInputError(f"{file} is not valid JSON: {reason}; correct it") from None
