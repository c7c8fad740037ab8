"""The interface of a corpus source; `registry` lists the sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.documents import Document

# Called with the position of a row that is no document ("FILE, line 31"), and the reason.
OnBadRow = Callable[[str, str], None]


def stop_at(position: str, reason: str) -> None:
    """Refuse a bad row; the default of `Piece.documents`.

    Raises:
        BadInputError: Always.
    """
    raise BadInputError(
        f"{position}: {reason}. Correct the row, or skip such rows with: prepare --bad-rows skip"
    )


def ignore(position: str, reason: str) -> None:
    """Skip a bad row, where `stop_at` or a count follows later."""


class Piece(Protocol):
    """Some documents of a source. A piece can be pickled and read in another process."""

    @property
    def origin(self) -> str:
        """Name of the file or data set, for messages."""

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """Read the documents; call `on_bad_row` for each row without one.

        Only a row with an empty text gives an empty document.
        """


def grouped(
    pieces: Iterable[tuple[Piece, int]], size: int
) -> Iterator[tuple[tuple[Piece, ...], int]]:
    """Group pieces, each with its bytes, to about `size` bytes; see `Source.pieces`."""
    group: list[Piece] = []
    total = 0
    for piece, bytes_of_piece in pieces:
        group.append(piece)
        total += bytes_of_piece
        if total >= size:
            yield tuple(group), total
            group, total = [], 0
    if group:
        yield tuple(group), total


class Source(ABC):
    """The text that one specification (``--corpus SPEC``) names.

    Attributes:
        scheme: First part of the specifications, such as ``jsonl`` in ``jsonl:GLOB#FIELD``.
        form: How a specification is written; equal to `scheme` if nothing follows it.
        summary: What the source reads, in one line.
        example: A specification, for the documentation.
        example_file: Name and content of a valid file, if the source reads text files. The drill
            of hostile files damages it.
        spec: The specification.
        name: The part of it behind the scheme.
        license: License of the text, as far as known.
        one_sentence_per_line: Whether every line is a sentence; None if only the text shows it.
    """

    scheme: ClassVar[str]
    form: ClassVar[str]
    summary: ClassVar[str]
    example: ClassVar[str]
    example_file: ClassVar[tuple[str, str] | None] = None

    license: str = "not stated"
    one_sentence_per_line: bool | None = None

    def __init__(self, spec: str) -> None:
        """Keep the specification; subclasses also find the text.

        Raises:
            BadInputError: There is no such text.
        """
        self.spec = spec
        self.name = spec.partition(":")[2]

    @abstractmethod
    def size(self) -> int:
        """Estimate the bytes of the text."""

    @abstractmethod
    def files(self) -> list[Any]:
        """List what is read, with sizes; the list differs if the source has changed."""

    @abstractmethod
    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """Cut the text into groups of pieces of about `size` bytes; yield each with its size."""
