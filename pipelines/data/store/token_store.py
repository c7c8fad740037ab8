"""The token store: a corpus tokenised once, for every sequence length, epoch and objective.

    STORE/ledger.json                           what is in it; written last: a store without is none
    STORE/card.md, card.json                    the same for people, with statistics
    STORE/tokenizer/                            copy of the tokenizer
    STORE/train-00-00012.tokens.npy             uint16 or uint32 [tokens]: sentences end to end
    STORE/train-00-00012.sentences.npy          uint16 [sentences]: tokens of each sentence
    STORE/train-00-00012.documents.npy          uint32 [documents]: sentences of each document
    STORE/heldout-00-00012.…                    the same for held-out documents

A shard is named by its source and its block there. A document never spans two shards. Token files
are memory-mapped; lengths take about 0.1 bytes per token and are summed up to offsets when the
store is opened.
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
    """Everything that must be known of a store before it is read.

    Attributes:
        corpus: Its specification.
        files: What it was read from, with sizes.
        licence: Of the text, as far as known.
        recipe: What else decided the tokens; see `shards.Recipe`.
        tokenizer: Digest of the tokenizer.
        vocab_size: Ids are below it.
        counts: Documents read and left out, characters, [UNK] tokens.
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
        """SHA-256 of the ledger and so, through the hashes in it, of the store."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def total(self, split: SplitName, what: Literal["documents", "sentences", "tokens"]) -> int:
        """Sum over the shards of a split."""
        return sum(getattr(shard, what) for shard in self.splits[split])


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class Split:
    """The documents of one split, as one sequence of tokens over all shards.

    Attributes:
        sentence_offsets: int64 [sentences + 1]: first token of each sentence.
        document_offsets: int64 [documents + 1]: first sentence of each document.
    """

    def __init__(self, folder: Path, name: SplitName, shards: list[Shard]) -> None:
        """Maps the shards.

        Raises:
            BadInputError: A file is absent or does not have the size that the ledger states.
        """
        self.name = name
        self._shards = shards
        # Plain views, because slicing a memmap costs four times as much.
        self._tokens = [np.asarray(_map(folder, shard, "tokens", shard.tokens)) for shard in shards]
        self._starts = _offsets([np.array([shard.tokens for shard in shards])])
        self.sentence_offsets = _offsets(
            [_map(folder, shard, "sentences", shard.sentences) for shard in shards]
        )
        self.document_offsets = _offsets(
            [_map(folder, shard, "documents", shard.documents) for shard in shards]
        )
        # What is cut out of a shard must not reach into the next one.
        sentences = np.cumsum([0] + [shard.sentences for shard in shards])
        documents = np.cumsum([0] + [shard.documents for shard in shards])
        if not (
            np.array_equal(self.document_offsets[documents], sentences)
            and np.array_equal(self.sentence_offsets[sentences], self._starts)
            and all((x[1:] > x[:-1]).all() for x in (self.sentence_offsets, self.document_offsets))
        ):
            raise BadInputError(
                f"{folder}: the shards of {name!r} contradict the ledger; remove the store and"
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
        """Each shard with its tokens, mapped."""
        yield from zip(self._shards, self._tokens, strict=True)

    def windows(self, tokens: int) -> list[tuple[int, int]]:
        """Stretches of about so many tokens: first and one-past-last document, at least two."""
        ends = self.sentence_offsets[self.document_offsets[1:]]
        count = max(1, min(round(self.tokens / tokens), self.documents // 2))
        cuts = np.searchsorted(ends, np.arange(1, count) * (self.tokens / count)) + 1
        # No stretch of fewer than two documents, however long they are.
        least = 2 * np.arange(1, count)
        cuts = np.maximum.accumulate(np.maximum(cuts, least) - least) + least
        cuts = np.minimum(cuts, self.documents - 2 * np.arange(count - 1, 0, -1))
        edges = [0, *cuts.tolist(), self.documents]
        return list(pairwise(edges))

    def warm(self, window: tuple[int, int]) -> None:
        """Reads the tokens of a window once from end to end, so that they are in memory.

        Random reads of a file that is not in memory are some forty times slower.
        """
        first, end = self.sentence_offsets[self.document_offsets[list(window)]]
        for start, tokens in zip(self._starts[:-1], self._tokens, strict=True):
            part = tokens[max(first - start, 0) : max(end - start, 0)]
            for chunk in range(0, len(part), _WARM_CHUNK):
                part[chunk : chunk + _WARM_CHUNK].max()

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Tokens [start, start + length) of every span, end to end.

        Args:
            starts: int64 [N]; a span does not cross a shard.
            lengths: int [N].
        """
        # An empty span may begin where the last shard ends.
        last = len(self._tokens) - 1
        shard = np.minimum(np.searchsorted(self._starts, starts, side="right") - 1, last)
        first = starts - self._starts[shard]
        ends = np.cumsum(lengths)
        out = np.empty(ends[-1], self._tokens[0].dtype)
        # Spans are long enough for one copy each to be faster than an index per token.
        spans = zip(shard.tolist(), first.tolist(), lengths.tolist(), ends.tolist(), strict=True)
        for number, begin, length, end in spans:
            out[end - length : end] = self._tokens[number][begin : begin + length]
        return out


class Store:
    """A finished store, opened for reading."""

    def __init__(self, folder: Path) -> None:
        """Reads the ledger.

        Raises:
            BadInputError: There is none, or it is of another version or damaged.
        """
        self.folder = folder
        self.ledger = read_ledger(folder)

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer that the store was made with.

        Raises:
            BadInputError: The copy in the store is not the one in the ledger.
        """
        try:
            tokenizer = tokenizers.load(self.folder / TOKENIZER)
        except BadInputError as error:
            raise BadInputError(f"{error}; remove the store and prepare it again") from None
        known = (self.ledger.tokenizer, self.ledger.vocab_size)
        if (tokenizer.digest, tokenizer.vocab_size) != known:
            raise BadInputError(
                f"{self.folder / TOKENIZER} is not the tokenizer that made the store"
                f" (ledger {self.ledger.tokenizer[:12]}, found {tokenizer.digest[:12]});"
                " remove the store and prepare it again"
            )
        return tokenizer

    def split(self, name: SplitName) -> Split:
        """The documents of a split; see `Split` for the errors."""
        return Split(self.folder, name, self.ledger.splits[name])

    def verify_all(self) -> None:
        """Verifies both splits and the tokenizer; see `verify` and `tokenizer` for the errors."""
        _ = self.tokenizer
        for name in SPLITS:
            self.verify(name)

    def verify(self, name: SplitName) -> None:
        """Reads every file of a split, which also warms the page cache, and checks it.

        Raises:
            BadInputError: A file is absent or damaged, or holds an id beyond the vocabulary.
        """
        for shard in self.ledger.splits[name]:
            for part, expected in shard.sha256.items():
                path = self.folder / f"{shard.name}.{part}.npy"
                if not path.is_file() or sha256(path) != expected:
                    raise BadInputError(
                        f"{path} is not what the ledger says (its SHA-256 differs);"
                        " remove the store and prepare it again"
                    )
            largest = _map(self.folder, shard, "tokens", shard.tokens).max()
            if largest >= self.ledger.vocab_size:
                raise BadInputError(
                    f"{self.folder}: {shard.name} holds the token id {largest}, but the vocabulary"
                    f" has only {self.ledger.vocab_size}; remove the store and prepare it again"
                )


def read_ledger(folder: Path) -> Ledger:
    """The ledger of the store in `folder`.

    Raises:
        BadInputError: There is none, or it is of another version or damaged.
    """
    path = folder / LEDGER
    if not path.is_file():
        if (folder / CARD_DATA).is_file() and not (folder / WORK).exists():
            raise BadInputError(
                f"{folder} has lost {LEDGER}; remove the store and prepare it again"
            )
        raise BadInputError(f"{folder} is not a finished token store; run bert-jax prepare")
    try:
        given: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if given.get("format") != FORMAT:
            raise BadInputError(
                f"{path} has format {given.get('format')}, this version reads {FORMAT};"
                " remove the store and prepare it again"
            )
        given["splits"] = {
            split: [Shard(**shard) for shard in shards] for split, shards in given["splits"].items()
        }
        if set(given["splits"]) != set(SPLITS):
            raise ValueError(f"splits {', '.join(given['splits'])}")
        return _checked(Ledger(**given))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInputError(
            f"{path} is damaged ({error}); remove the store and prepare it again"
        ) from None


def _checked(ledger: Ledger) -> Ledger:
    """The ledger, if its values can be believed; a name in it must not lead out of the store."""
    texts = (ledger.corpus, ledger.licence, ledger.tokenizer)
    if not all(isinstance(text, str) for text in texts) or not isinstance(ledger.recipe, dict):
        raise TypeError("a text or the recipe is none")
    shards = [shard for split in SPLITS for shard in ledger.splits[split]]
    for shard in shards:
        if not re.fullmatch(r"[\w-]+", shard.name, re.ASCII):
            raise ValueError(f"a shard has the name {shard.name!r:.80}")
        if set(shard.sha256) != set(PARTS):
            raise ValueError(f"{shard.name} has hashes of {', '.join(shard.sha256)}")
    sizes = [size for one in shards for size in (one.documents, one.sentences, one.tokens)]
    for count in (ledger.vocab_size, *sizes, *(ledger.counts[name] for name in COUNTS)):
        if type(count) is not int or not 0 <= count < 1 << 60:
            raise ValueError(f"a count is {count!r:.40}")
    _ = ledger.digest  # here is where a ledger that is too deep for it is refused
    return ledger


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
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
    # The header is an expression of Python, which fails in as many ways.
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
            f"{path} holds {array.dtype}, not {_DTYPES[part][0]}; remove the store and prepare it"
            " again"
        )
    if array.shape != (size,):
        raise BadInputError(
            f"{path} holds {array.size} entries, the ledger says {size}; remove the store and"
            " prepare it again"
        )
    return array


def _offsets(lengths: list[np.ndarray]) -> np.ndarray:
    """int64 [N + 1]: where each of the N items begins, and the end."""
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
