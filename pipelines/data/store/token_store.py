"""The token store: a corpus tokenized once, for every sequence length, epoch and objective.

    STORE/ledger.json                           its content; written last
    STORE/card.md, card.json                    the same for people, with statistics
    STORE/tokenizer/                            copy of the tokenizer
    STORE/train-00-00012.tokens.npy             uint16 or uint32 [tokens]: sentences, concatenated
    STORE/train-00-00012.sentences.npy          uint16 [sentences]: tokens of each sentence
    STORE/train-00-00012.documents.npy          uint32 [documents]: sentences of each document
    STORE/heldout-00-00012.…                    the same for held-out documents

The name of a shard consists of the numbers of its source and its block. A document never spans two
shards. Token files are memory-mapped. Lengths take about 0.1 bytes per token and are summed to
offsets when the store is opened.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np

from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import check_kind
from pipelines.data.tokenizers import tokenizer as tokenizers

FORMAT = 2
_WARM_CHUNK = 1 << 22
LEDGER = "ledger.json"
WORK = "work"
CARD_DATA = "card.json"
TOKENIZER = "tokenizer"
PARTS = ("tokens", "sentences", "documents")
COUNTS = ("read", "too_short", "empty", "duplicates", "characters", "unknown")
_DTYPES = {"tokens": ("uint16", "uint32"), "sentences": ("uint16",), "documents": ("uint32",)}

SplitName = Literal["train", "heldout"]
SPLITS: tuple[SplitName, ...] = ("train", "heldout")


@dataclass(frozen=True)
class Shard:
    """Sizes of one shard and the SHA-256 of each of its files."""

    name: str
    documents: int
    sentences: int
    tokens: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class Ledger:
    """The description of a store, which verifies all its files.

    Attributes:
        corpus: Specification of the corpus.
        files: The files of the corpus, with sizes.
        licence: License of the text, as far as known.
        recipe: The other options that determined the tokens; see `shards.Recipe`.
        tokenizer: Digest of the tokenizer.
        vocab_size: Number of ids.
        counts: Documents read and skipped, characters, [UNK] tokens.
        splits: The shards of "train" and "heldout".
    """

    corpus: str
    files: list[Any]
    licence: str
    recipe: dict[str, Any]
    tokenizer: str
    vocab_size: int
    counts: dict[str, int]
    splits: dict[SplitName, list[Shard]]
    format: int = FORMAT

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the ledger and, through the hashes in it, of the store."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def total(self, split: SplitName, field: Literal["documents", "sentences", "tokens"]) -> int:
        """Sum a field over the shards of a split."""
        return sum(getattr(shard, field) for shard in self.splits[split])


def token_dtype(vocab_size: int) -> np.dtype:
    """Return uint16 if it can represent every id, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class Split:
    """The documents of one split, as one sequence of tokens over all shards.

    Attributes:
        sentence_offsets: int64 [sentences + 1]: first token of each sentence.
        document_offsets: int64 [documents + 1]: first sentence of each document.
    """

    def __init__(self, folder: Path, name: SplitName, shards: list[Shard]) -> None:
        """Map the shards.

        Raises:
            BadInputError: A file is missing, or its size differs from the ledger.
        """
        self.name = name
        self._shards = shards
        # Plain views, because slicing a memmap takes four times as long.
        self._tokens = [np.asarray(_map(folder, shard, "tokens", shard.tokens)) for shard in shards]
        self._starts = _offsets([np.array([shard.tokens for shard in shards])])
        self.sentence_offsets = _offsets(
            [_map(folder, shard, "sentences", shard.sentences) for shard in shards]
        )
        self.document_offsets = _offsets(
            [_map(folder, shard, "documents", shard.documents) for shard in shards]
        )
        # No document or sentence may extend into the next shard.
        sentences = np.cumsum([0] + [shard.sentences for shard in shards])
        documents = np.cumsum([0] + [shard.documents for shard in shards])
        if not (
            np.array_equal(self.document_offsets[documents], sentences)
            and np.array_equal(self.sentence_offsets[sentences], self._starts)
            and all((x[1:] > x[:-1]).all() for x in (self.sentence_offsets, self.document_offsets))
        ):
            raise BadInputError(
                f"{folder}: the shards of {name!r} do not match {LEDGER}; remove the store and"
                " prepare it again"
            )

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.document_offsets) - 1

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.sentence_offsets[-1])

    def shards(self) -> Iterator[tuple[Shard, np.ndarray]]:
        """Yield each shard with its tokens, mapped."""
        yield from zip(self._shards, self._tokens, strict=True)

    def windows(self, tokens: int) -> list[tuple[int, int]]:
        """Cut the split into windows of about `tokens` tokens and at least two documents.

        Returns:
            First and one-past-last document of each window.
        """
        ends = self.sentence_offsets[self.document_offsets[1:]]
        count = max(1, min(round(self.tokens / tokens), self.documents // 2))
        cuts = np.searchsorted(ends, np.arange(1, count) * (self.tokens / count)) + 1
        # At least two documents per window, however long they are.
        minimum = 2 * np.arange(1, count)
        cuts = np.maximum.accumulate(np.maximum(cuts, minimum) - minimum) + minimum
        cuts = np.minimum(cuts, self.documents - 2 * np.arange(count - 1, 0, -1))
        edges = [0, *cuts.tolist(), self.documents]
        return list(pairwise(edges))

    def warm(self, window: tuple[int, int]) -> None:
        """Read the tokens of a window sequentially into the page cache.

        Random reads of a file that is not in memory are about forty times slower.
        """
        first, end = self.sentence_offsets[self.document_offsets[list(window)]]
        for start, tokens in zip(self._starts[:-1], self._tokens, strict=True):
            part = tokens[max(first - start, 0) : max(end - start, 0)]
            for chunk in range(0, len(part), _WARM_CHUNK):
                part[chunk : chunk + _WARM_CHUNK].max()

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Concatenate the tokens [start, start + length) of every span.

        Args:
            starts: int64 [N]; a span does not cross a shard.
            lengths: int [N].
        """
        return gather(self._tokens, self._starts, starts, lengths)


def gather(
    arrays: list[np.ndarray], array_starts: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Concatenate spans of the concatenation of `arrays`, without copying the arrays.

    Args:
        arrays: Tokens of the shards.
        array_starts: int64 [arrays + 1]: start of each array, and the end.
        starts: int64 [N]; a span does not cross an array.
        lengths: int [N].
    """
    # An empty span may begin at the end of the last shard.
    last = len(arrays) - 1
    shard = np.minimum(np.searchsorted(array_starts, starts, side="right") - 1, last)
    first = starts - array_starts[shard]
    ends = np.cumsum(lengths)
    out = np.empty(ends[-1], arrays[0].dtype)
    # Spans are so long that one copy per span is faster than an index per token.
    spans = zip(shard.tolist(), first.tolist(), lengths.tolist(), ends.tolist(), strict=True)
    for number, offset, length, end in spans:
        out[end - length : end] = arrays[number][offset : offset + length]
    return out


class Store:
    """A finished store, opened for reading."""

    def __init__(self, folder: Path) -> None:
        """Read the ledger.

        Raises:
            BadInputError: The ledger is missing, damaged or of another version.
        """
        self.folder = folder
        self.ledger = read_ledger(folder)

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of the store.

        Raises:
            BadInputError: The copy in the store differs from the ledger.
        """
        try:
            tokenizer = tokenizers.load(self.folder / TOKENIZER)
        except BadInputError as error:
            raise BadInputError(f"{error}, or remove the store and prepare it again") from None
        expected = (self.ledger.tokenizer, self.ledger.vocab_size)
        if (tokenizer.digest, tokenizer.vocab_size) != expected:
            raise BadInputError(
                f"{self.folder / TOKENIZER} is not the tokenizer that made the store"
                f" (ledger {self.ledger.tokenizer[:12]}, copy {tokenizer.digest[:12]});"
                " remove the store and prepare it again"
            )
        return tokenizer

    def split(self, name: SplitName) -> Split:
        """Open the documents of a split; see `Split` for the errors."""
        return Split(self.folder, name, self.ledger.splits[name])

    def verify_all(self) -> None:
        """Verify both splits and the tokenizer; see `verify` and `tokenizer` for the errors."""
        _ = self.tokenizer
        for name in SPLITS:
            self.verify(name)

    def verify(self, name: SplitName) -> None:
        """Compare every file of a split with its hash, which also warms the page cache.

        Raises:
            BadInputError: A file is missing or damaged, or has an id outside of the vocabulary.
        """
        for shard in self.ledger.splits[name]:
            for part, expected in shard.sha256.items():
                path = self.folder / f"{shard.name}.{part}.npy"
                if not path.is_file() or sha256(path) != expected:
                    raise BadInputError(
                        f"{path} does not match the ledger (its SHA-256 differs);"
                        " remove the store and prepare it again"
                    )
            largest = _map(self.folder, shard, "tokens", shard.tokens).max()
            if largest >= self.ledger.vocab_size:
                raise BadInputError(
                    f"{self.folder}: {shard.name} contains the token id {largest}, but the"
                    f" vocabulary has only {self.ledger.vocab_size}; remove the store and"
                    " prepare it again"
                )


def read_ledger(folder: Path) -> Ledger:
    """Read the ledger of the store in `folder`.

    Raises:
        BadInputError: The ledger is missing, damaged or of another version.
    """
    path = folder / LEDGER
    if not path.is_file():
        if (folder / CARD_DATA).is_file() and not (folder / WORK).exists():
            raise BadInputError(
                f"{folder} has lost {LEDGER}; remove the store and prepare it again"
            )
        raise BadInputError(f"{folder} is not a finished token store; run bert-jax prepare")
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if content.get("format") != FORMAT:
            raise BadInputError(
                f"{path} has format {content.get('format')}, but this version reads {FORMAT};"
                " remove the store and prepare it again"
            )
        content["splits"] = {
            split: [Shard(**shard) for shard in shards]
            for split, shards in content["splits"].items()
        }
        if set(content["splits"]) != set(SPLITS):
            raise ValueError(f"its splits are {', '.join(content['splits'])}")
        return _checked(Ledger(**content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInputError(
            f"{path} is damaged ({error}); remove the store and prepare it again"
        ) from None


def _checked(ledger: Ledger) -> Ledger:
    """Check types and ranges of the values; a file name must not lead out of the store."""
    texts = (ledger.corpus, ledger.licence, ledger.tokenizer)
    if not all(isinstance(text, str) for text in texts) or not isinstance(ledger.recipe, dict):
        raise TypeError("a text or the recipe has another type")
    shards = [shard for split in SPLITS for shard in ledger.splits[split]]
    for shard in shards:
        if not re.fullmatch(r"[\w-]+", shard.name, re.ASCII):
            raise ValueError(f"a shard has the name {shard.name!r:.80}")
        if set(shard.sha256) != set(PARTS):
            raise ValueError(f"{shard.name} has hashes of {', '.join(shard.sha256)}")
    sizes = [n for shard in shards for n in (shard.documents, shard.sentences, shard.tokens)]
    for count in (ledger.vocab_size, *sizes, *(ledger.counts[name] for name in COUNTS)):
        if type(count) is not int or not 0 <= count < 1 << 60:
            raise ValueError(f"a count is {count!r:.40}")
    _ = ledger.digest  # raises an error if the ledger is nested too deeply
    return ledger


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _map(folder: Path, shard: Shard, part: str, size: int) -> np.ndarray:
    path = folder / f"{shard.name}.{part}.npy"
    check_kind(path)
    try:
        with np.errstate(over="ignore"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise BadInputError(f"{path} is missing; remove the store and prepare it again") from None
    # The header is a Python expression, so many errors are possible.
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        OverflowError,
        SyntaxError,
        TokenError,
        RecursionError,
        MemoryError,
    ) as error:
        raise BadInputError(
            f"{path} is truncated or damaged ({error}); remove the store and prepare it again"
        ) from None
    if array.dtype not in _DTYPES[part]:
        raise BadInputError(
            f"{path} contains {array.dtype}, not {_DTYPES[part][0]}; remove the store and prepare"
            " it again"
        )
    if array.shape != (size,):
        raise BadInputError(
            f"{path} has {array.size} entries, but the ledger states {size}; remove the store and"
            " prepare it again"
        )
    return array


def _offsets(lengths: list[np.ndarray]) -> np.ndarray:
    """Return the start of each of the N items, and the end; int64 [N + 1]."""
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
