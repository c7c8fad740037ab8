"""Corpora with one document per file, such as books."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources import files
from pipelines.data.sources.documents import Document
from pipelines.data.sources.files import FileSource, Span, text_size, too_long
from pipelines.data.sources.locations import File, readable
from pipelines.data.sources.recognition import HEAD, check_format
from pipelines.data.sources.source import OnBadRow, Piece, grouped, stop_at
from pipelines.data.sources.wrapping import is_wrapped, joined

_MODES = ("auto", "join", "keep")


@dataclass(frozen=True)
class WholeFile(Piece):
    """One file, which is one document.

    Attributes:
        file: The file.
        mode: "join" for one line per paragraph, "keep" for the lines of the file, "auto" to join
            them if they look as if they were cut at a certain width.
    """

    file: File
    mode: str

    @property
    def origin(self) -> str:
        return self.file.name

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`.

        Raises:
            BadInputError: The file cannot be read, is not UTF-8 text, or is too long.
        """
        span = Span(self.file, 0, self.file.size, self._content())
        lines = [span.text(offset, line).strip() for offset, line in span.lines()]
        paragraphs = [list(group) for filled, group in groupby(lines, bool) if filled]
        if self.mode == "join" or (self.mode == "auto" and is_wrapped(paragraphs)):
            paragraphs = [[joined(paragraph)] for paragraph in paragraphs]
        if document := [line for paragraph in paragraphs for line in paragraph]:
            yield document

    def _content(self) -> bytes:
        with readable(self.file), self.file.open_text() as text:
            check_format(text.peek()[:HEAD], self.file.name, WholeFiles.scheme, self.file.name)
            content = text.read(files.MAX_DOCUMENT + 1)
        if len(content) > files.MAX_DOCUMENT:
            raise too_long(self.file, files.MAX_DOCUMENT)
        return content


class WholeFiles(FileSource):
    """UTF-8 text files; each one is a document."""

    scheme = "files"
    has_fragment = True
    form = "files:GLOB[#join|#keep]"
    summary = (
        "UTF-8 text: a file is a document, and blank lines separate paragraphs; lines that were cut"
        " at a certain width are joined (#join: all lines of a paragraph, #keep: none)"
    )
    example = "files:gutenberg/*.txt"
    example_file = ("a.txt", "A story of \u201cwords\u201d.\nIt has two lines.\n\nAnd more.\n")

    def __init__(self, spec: str) -> None:
        """Find the files.

        Raises:
            BadArgumentsError: The part behind ``#`` is unknown.
            BadInputError: No file matches.
        """
        super().__init__(spec)
        self._mode = self.fragment() or _MODES[0]
        if self._mode not in _MODES:
            raise BadArgumentsError(f"corpus {spec!r}: #{self._mode} is unknown; write {self.form}")

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        files = ((WholeFile(file, self._mode), text_size(file)) for file in self.corpus_files)
        return grouped(files, size)
