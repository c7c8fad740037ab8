"""Where text comes from: corpus specifications become blocks of documents.

    python-docs                    built in, no download
    text:GLOB                      a sentence or paragraph per line, blank line between documents
    jsonl:GLOB#FIELD               a JSON object per line, the text in FIELD (default "text")
    tfds:NAME[/CONFIG][#FIELD]     a TensorFlow data set in array_record files

Files ending in .gz, .xz or .zst are unpacked on the way. A document is a list of non-empty lines.
The order is the corpus's own and always the same, and so are the blocks.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.data.sources import python_docs
from pipelines.data.sources.data_sets import open_builder
from pipelines.data.sources.files import (
    Document,
    FileCutter,
    FilePiece,
    Format,
    paragraphs,
    text_size,
)

CORPUS_HELP = (
    "python-docs, text:GLOB, jsonl:GLOB#FIELD or tfds:NAME[/CONFIG][#FIELD]; may be repeated"
)

# A block becomes a shard. Small corpora get small ones, so that all workers have something to do.
_MOST_BLOCKS = 256
_BLOCK_BYTES = (1 << 21, 1 << 26)


class Piece(Protocol):
    """A stretch of documents that can be sent to another process and read there."""

    @property
    def origin(self) -> str:
        """Where it is from, for messages."""

    def documents(self) -> Iterator[Document]:
        """The documents."""


@dataclass(frozen=True)
class Block:
    """What becomes one shard.

    Attributes:
        name: Unique in the corpus; names sort as the corpus is ordered.
        pieces: Its documents.
        size: Roughly the bytes of its text.
    """

    name: str
    pieces: tuple[Piece, ...]
    size: int

    @property
    def origin(self) -> str:
        """Where it is from, for messages."""
        ends = dict.fromkeys((self.pieces[0].origin, self.pieces[-1].origin))
        return " … ".join(ends)

    def documents(self) -> Iterator[Document]:
        """The documents."""
        for piece in self.pieces:
            yield from piece.documents()


class Source(Protocol):
    """One part of a corpus.

    Attributes:
        spec: What it was opened with.
        licence: Of the text, as far as known.
        one_sentence_per_line: Whether that is known; None to find out from the text.
    """

    spec: str
    licence: str
    one_sentence_per_line: bool | None

    def size(self) -> int:
        """Roughly the bytes of its text."""

    def files(self) -> list[Any]:
        """What it reads, with sizes; differs if the source has changed."""

    def pieces(self, wanted: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """Pieces of about `wanted` bytes together, and their size."""


@dataclass(frozen=True)
class Corpus:
    """Sources, one after the other."""

    sources: tuple[Source, ...]

    @property
    def spec(self) -> str:
        """The specifications of the sources."""
        return " + ".join(source.spec for source in self.sources)

    @property
    def licence(self) -> str:
        """The licences of the sources."""
        return "; ".join(dict.fromkeys(source.licence for source in self.sources))

    @property
    def files(self) -> list[Any]:
        """What the sources read, with sizes."""
        return [source.files() for source in self.sources]

    def size(self) -> int:
        """Roughly the bytes of the text."""
        return sum(source.size() for source in self.sources)

    def blocks(self, number: int) -> Iterator[Block]:
        """The blocks of source `number`; made one by one, as a block may carry its text."""
        least, most = _BLOCK_BYTES
        wanted = min(max(self.size() // _MOST_BLOCKS, least), most)
        for count, (pieces, size) in enumerate(self.sources[number].pieces(wanted)):
            yield Block(f"{number:02}-{count:05}", pieces, size)

    def documents(self) -> Iterator[Document]:
        """All documents, read in this process."""
        for number in range(len(self.sources)):
            for block in self.blocks(number):
                yield from block.documents()


def open_corpus(*specs: str) -> Corpus:
    """The corpus that the specifications name.

    Raises:
        BadArgumentsError: One has another form, or stands there twice.
        BadInputError: A glob matches no file; there is no such data set.
    """
    twice = next((spec for spec in specs if specs.count(spec) > 1), None)
    if twice is not None:
        raise BadArgumentsError(f"--corpus {twice} is given twice")
    return Corpus(tuple(map(_open, specs)))


def _open(spec: str) -> Source:
    scheme, _, name = spec.partition(":")
    if spec == "python-docs":
        return PythonDocs()
    if scheme == "text" and name:
        return Files(spec, "text", name, "")
    if scheme == "jsonl" and name:
        pattern, _, field = name.partition("#")
        return Files(spec, "jsonl", pattern, field or "text")
    if scheme == "tfds" and name:
        name, _, field = name.partition("#")
        return TensorFlowDataset(spec, name, field or "text")
    if glob.glob(spec):  # noqa: PTH207
        raise BadArgumentsError(f"corpus {spec!r} does not say what it is; try 'text:{spec}'")
    raise BadArgumentsError(
        f"corpus {spec!r} is none of python-docs, text:GLOB, jsonl:GLOB#FIELD and"
        " tfds:NAME[/CONFIG][#FIELD]"
    )


@dataclass(frozen=True)
class Documents:
    """A piece that carries its documents."""

    carried: tuple[Document, ...]
    origin: str = "python-docs"

    def documents(self) -> Iterator[Document]:
        """See `Piece.documents`."""
        yield from self.carried


class PythonDocs:
    """The built-in corpus."""

    spec = "python-docs"
    licence = python_docs.LICENCE
    one_sentence_per_line: bool | None = True

    def size(self) -> int:
        """See `Source.size`."""
        return 1 << 22

    def files(self) -> list[Any]:
        """See `Source.files`."""
        return []

    def pieces(self, wanted: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """See `Source.pieces`."""
        documents: list[Document] = []
        size = 0
        for document in python_docs.documents():
            documents.append(document)
            size += sum(map(len, document))
            if size >= wanted:
                yield (Documents(tuple(documents)),), size
                documents, size = [], 0
        if documents:
            yield (Documents(tuple(documents)),), size


class Files:
    """Files that match a pattern, in the order of their names."""

    licence = "not stated"
    one_sentence_per_line: bool | None = None

    def __init__(self, spec: str, form: Format, pattern: str, field: str) -> None:
        """Finds the files.

        Raises:
            BadInputError: There is none.
        """
        # Not Path.glob, which takes no absolute patterns.
        pattern = os.path.expanduser(pattern)  # noqa: PTH111
        paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
        self.spec, self._form, self._field = spec, form, field
        self._paths = [path for path in paths if path.is_file()]
        if not self._paths:
            hint = f"; to read a folder: {form}:{pattern}/*" if Path(pattern).is_dir() else ""
            raise BadInputError(f"corpus {spec!r}: no file matches {pattern}{hint}")

    def size(self) -> int:
        """See `Source.size`."""
        return sum(map(text_size, self._paths))

    def files(self) -> list[Any]:
        """See `Source.files`."""
        return [[str(path), path.stat().st_size] for path in self._paths]

    def pieces(self, wanted: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """See `Source.pieces`; small files share a block."""
        pieces: list[FilePiece] = []
        size = 0
        for path in self._paths:
            cutter = FileCutter(path, self._form, self._field)
            try:
                while piece := cutter.take(wanted - size):
                    pieces.append(piece)
                    size += piece.end - piece.start
                    if size >= wanted:
                        yield tuple(pieces), size
                        pieces, size = [], 0
            finally:
                cutter.close()
        if pieces:
            yield tuple(pieces), size


@dataclass(frozen=True)
class DatasetPiece:
    """Examples `start` to `end` - 1 of the training split of a TensorFlow data set."""

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
        source = open_builder(self.name).as_data_source(split="train")
        for number in range(self.start, self.end):
            try:
                example = source[number]
            except Exception as error:  # array_record raises what its C++ code reports
                text = " ".join(str(error).split())[:200]
                raise BadInputError(f"tfds:{self.name}: example {number}: {text}") from None
            if self.field not in example:
                raise BadInputError(
                    f"tfds:{self.name} has no field {self.field!r} but {', '.join(example)};"
                    f" name one, as in tfds:{self.name}#FIELD"
                )
            try:
                text = example[self.field].decode()
            except (AttributeError, UnicodeDecodeError):
                raise BadInputError(
                    f"tfds:{self.name}: {self.field!r} of example {number} is not UTF-8 text"
                ) from None
            if document := paragraphs(_without_marks(text)):
                yield document


class TensorFlowDataset:
    """The training split of a data set of tensorflow_datasets, read without TensorFlow.

    It must be, or is then, prepared as array_record files, the only format that needs no
    TensorFlow. Builders that themselves call TensorFlow, such as those that unpack zip or tar
    files, must be prepared where it is installed (`tfds build NAME --file_format=array_record`).
    """

    one_sentence_per_line: bool | None = None

    def __init__(self, spec: str, name: str, field: str) -> None:
        """Finds the data set, and prepares it if it is not there yet.

        Raises:
            BadInputError: There is none of this name, or it cannot be prepared.
        """
        self.spec, self._name, self._field = spec, name, field
        builder = open_builder(name)
        split = builder.info.splits.get("train")
        if split is None:
            raise BadInputError(f"{spec}: the data set has no training split")
        self._examples, self._bytes = split.num_examples, split.num_bytes
        licence = builder.info.redistribution_info.license or "not stated"
        self.licence = " ".join(licence.split())

    def size(self) -> int:
        """See `Source.size`."""
        return self._bytes

    def files(self) -> list[Any]:
        """See `Source.files`."""
        return [[self._name, self._bytes]]

    def pieces(self, wanted: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """See `Source.pieces`."""
        each = max(1, wanted * self._examples // max(1, self._bytes))
        for start in range(0, self._examples, each):
            end = min(start + each, self._examples)
            piece = DatasetPiece(self._name, self._field, start, end)
            yield (piece,), (end - start) * self._bytes // self._examples


def _without_marks(text: str) -> str:
    """Text of wiki40b without its marks and headings; other text as it is."""
    if "_START_" not in text:
        return text
    text = re.sub(r"_START_(ARTICLE|SECTION)_\n[^\n]*|_START_PARAGRAPH_", "", text)
    return text.replace("_NEWLINE_", "\n")
