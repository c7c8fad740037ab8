"""A corpus: one or more sources, cut into blocks of documents.

The order is that of the sources and always the same, and so are the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.console import progress, say
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources.documents import Document, split_sentences
from pipelines.data.sources.registry import open_source
from pipelines.data.sources.source import OnBadRow, Piece, Source, ignore, stop_at

# A block becomes a shard. Small corpora have small blocks, so that all workers are busy.
_MAX_BLOCKS = 256
_BLOCK_BYTES = (1 << 21, 1 << 26)
# A source whose lines are, with few exceptions, single sentences is not split any further.
_SAMPLE_LINES, _SINGLE_SENTENCES = 2000, 0.9


@dataclass(frozen=True)
class Block:
    """The documents of one shard.

    Attributes:
        name: Unique in the corpus; names sort as the corpus is ordered.
        pieces: Its documents.
        size: Estimated bytes of its text.
    """

    name: str
    pieces: tuple[Piece, ...]
    size: int

    @property
    def origin(self) -> str:
        """First and last file of the block, for messages."""
        ends = dict.fromkeys((self.pieces[0].origin, self.pieces[-1].origin))
        return " … ".join(ends)

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """Read the documents; see `Piece.documents`."""
        for piece in self.pieces:
            yield from piece.documents(on_bad_row)


@dataclass(frozen=True)
class Corpus:
    """Sources, one after the other."""

    sources: tuple[Source, ...]

    @property
    def spec(self) -> str:
        """The specifications of the sources."""
        return " + ".join(source.spec for source in self.sources)

    @property
    def license(self) -> str:
        """The licenses of the sources."""
        return "; ".join(dict.fromkeys(source.license for source in self.sources))

    @property
    def files(self) -> list[Any]:
        """The files of each source, with sizes."""
        return [source.files() for source in self.sources]

    def size(self) -> int:
        """Estimate the bytes of the text."""
        return sum(source.size() for source in self.sources)

    def blocks(self, number: int) -> Iterator[Block]:
        """Cut source `number` into blocks, lazily because a block may carry its text."""
        smallest, largest = _BLOCK_BYTES
        block_size = min(max(self.size() // _MAX_BLOCKS, smallest), largest)
        for count, (pieces, size) in enumerate(self.sources[number].pieces(block_size)):
            yield Block(f"{number:02}-{count:05}", pieces, size)

    def documents(self) -> Iterator[Document]:
        """Read all documents, in this process."""
        for number in range(len(self.sources)):
            for block in self.blocks(number):
                yield from block.documents()

    def has_sentence_lines(self, number: int, language: str) -> bool:
        """Return whether each line of source `number` is a sentence, judged by the first lines."""
        declared = self.sources[number].one_sentence_per_line
        if declared is not None:
            return declared
        lines = single = 0
        for block in self.blocks(number):
            for document in block.documents(ignore):
                for line in document:
                    lines += 1
                    single += len(split_sentences([line], language)) <= 1
                if lines >= _SAMPLE_LINES:
                    return single >= _SINGLE_SENTENCES * lines
        return single >= _SINGLE_SENTENCES * lines


@dataclass(frozen=True)
class Sentences:
    """The sentences of a corpus; can be iterated any number of times.

    Rows without a text are skipped and reported: a vocabulary does not depend on a few rows.
    """

    corpus: Corpus
    language: str

    def __iter__(self) -> Iterator[str]:
        """Read the sentences and report progress."""
        corpus, language = self.corpus, self.language
        total, done = corpus.size(), 0
        bad_rows: list[str] = []

        def skip(position: str, reason: str) -> None:
            bad_rows.append(f"{position}: {reason}")

        with progress("reading text, MB", max(1, total >> 20)) as update:
            for number in range(len(corpus.sources)):
                has_sentence_lines = corpus.has_sentence_lines(number, language)
                for block in corpus.blocks(number):
                    for document in block.documents(skip):
                        if has_sentence_lines:
                            yield from document
                        else:
                            yield from split_sentences(document, language)
                        done += sum(map(len, document))
                        update(min(done, total) >> 20, "")
        if bad_rows:
            say(f"skipped {len(bad_rows):,} rows without a text, the first at {bad_rows[0]}")


def open_corpus(*specs: str) -> Corpus:
    """Open the corpus that the specifications name; see `registry` for their forms.

    Raises:
        BadArgumentsError: A specification has an unknown form or is repeated.
        BadInputError: A glob matches no file; there is no such data set.
    """
    repeated = next((spec for spec in specs if specs.count(spec) > 1), None)
    if repeated is not None:
        raise BadArgumentsError(f"--corpus {repeated} is given twice; remove one")
    return Corpus(tuple(map(open_source, specs)))
