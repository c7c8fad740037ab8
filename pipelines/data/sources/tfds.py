"""Corpora of tensorflow_datasets, read without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import open_builder
from pipelines.data.sources.documents import Document, paragraphs
from pipelines.data.sources.source import Piece, Source


@dataclass(frozen=True)
class DatasetPiece:
    """Examples `start` to `end` - 1 of the training split of a data set."""

    name: str
    field: str
    start: int
    end: int

    @property
    def origin(self) -> str:
        """See `Piece.origin`."""
        return f"tfds:{self.name}"

    def documents(self) -> Iterator[Document]:
        """See `Piece.documents`.

        Raises:
            BadInputError: An example has no such text, or a file is damaged.
        """
        split = open_builder(self.name).as_data_source(split="train")
        for number in range(self.start, self.end):
            try:
                example = split[number]
            except Exception as error:  # array_record raises the errors of its C++ code
                text = " ".join(str(error).split())[:200]
                raise BadInputError(f"tfds:{self.name}: example {number}: {text}") from None
            if self.field not in example:
                raise BadInputError(
                    f"tfds:{self.name} has no field {self.field!r}; its fields are"
                    f" {', '.join(example)}. Choose one, as in tfds:{self.name}#FIELD"
                )
            try:
                text = example[self.field].decode()
            except (AttributeError, UnicodeDecodeError):
                raise BadInputError(
                    f"tfds:{self.name}: field {self.field!r} of example {number} is not UTF-8 text;"
                    f" choose another, as in tfds:{self.name}#FIELD"
                ) from None
            if document := paragraphs(_without_wiki40b_markers(text)):
                yield document


class TensorFlowDataset(Source):
    """The training split of a data set in array_record files, the only format without TensorFlow.

    A data set that is not prepared yet is downloaded and prepared. Builders that call TensorFlow,
    such as those that unpack zip or tar files, must be prepared where it is installed
    (`tfds build NAME --file_format=array_record`).
    """

    scheme = "tfds"
    form = "tfds:NAME[/CONFIG][#FIELD]"
    summary = 'a data set of tensorflow_datasets; the text is in FIELD (default "text")'
    example = "tfds:wiki40b/en"

    def __init__(self, spec: str) -> None:
        """Find the data set, and prepare it if necessary.

        Raises:
            BadInputError: There is no data set of this name, or it cannot be prepared.
        """
        super().__init__(spec)
        self._name, _, field = self.name.partition("#")
        self._field = field or "text"
        builder = open_builder(self._name)
        split = builder.info.splits.get("train")
        if split is None:
            raise BadInputError(f"{spec}: the data set has no training split; choose another")
        self._examples, self._bytes = split.num_examples, split.num_bytes
        self.license = " ".join((builder.info.redistribution_info.license or self.license).split())

    def size(self) -> int:
        """See `Source.size`."""
        return self._bytes

    def files(self) -> list[Any]:
        """See `Source.files`."""
        return [[self._name, self._bytes]]

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """See `Source.pieces`."""
        count = max(1, size * self._examples // max(1, self._bytes))
        for start in range(0, self._examples, count):
            end = min(start + count, self._examples)
            piece = DatasetPiece(self._name, self._field, start, end)
            yield (piece,), (end - start) * self._bytes // self._examples


def _without_wiki40b_markers(text: str) -> str:
    """Remove the markers and headings of wiki40b; return other text unchanged."""
    if "_START_" not in text:
        return text
    text = re.sub(r"_START_(ARTICLE|SECTION)_\n[^\n]*|_START_PARAGRAPH_", "", text)
    return text.replace("_NEWLINE_", "\n")
