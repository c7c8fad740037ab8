"""The token store: a corpus tokenised once, for every sequence length, epoch and objective.

    STORE/ledger.json                        what is in it; written last, so a store without is none
    STORE/tokenizer/                         copy of the tokenizer
    STORE/train-00000.tokens.npy             uint16 or uint32 [tokens]: all sentences end to end
    STORE/train-00000.sentences.npy          uint32 [sentences]: tokens of each sentence
    STORE/train-00000.documents.npy          uint32 [documents]: sentences of each document
    STORE/heldout-00000.…                    the same for held-out documents

A document never spans two shards. Token files are memory-mapped; lengths take about 0.2 bytes per
token and are summed up to offsets when the store is opened.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bert_jax.errors import BadInputError
from pipelines.data import tokenizer as tokenizers

FORMAT = 1
LEDGER = "ledger.json"
WORK = "work"
TOKENIZER = "tokenizer"
PARTS = ("tokens", "sentences", "documents")
SHARD_TOKENS = 1 << 26

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
        licence: Of the text, as far as known.
        heldout: Share of the documents that is held out, chosen by their hash.
        tokenizer: Digest of the tokenizer.
        vocab_size: Ids are below it.
        splits: The shards of "train" and "heldout".
    """

    corpus: str
    licence: str
    heldout: float
    tokenizer: str
    vocab_size: int
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


@dataclass
class _Pending:
    """A shard that is being collected."""

    tokens: list[np.ndarray] = field(default_factory=list)
    sentences: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    size: int = 0


class StoreWriter:
    """Writes a store shard by shard; `close` makes it valid."""

    def __init__(self, folder: Path, tokenizer: tokenizers.Tokenizer) -> None:
        """Begins a store in `folder`; files of an unfinished one there are replaced."""
        self._folder = folder
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._pending = {split: _Pending() for split in SPLITS}
        self._shards: dict[SplitName, list[Shard]] = {split: [] for split in SPLITS}
        self._work = folder / WORK
        shutil.rmtree(self._work, ignore_errors=True)

    def add(self, split: SplitName, sentences: list[list[int]]) -> None:
        """Appends a document; sentences without tokens are left out."""
        lengths = [len(sentence) for sentence in sentences if sentence]
        if not lengths:
            return
        pending = self._pending[split]
        if pending.size and pending.size + sum(lengths) > SHARD_TOKENS:
            self._flush(split)
            pending = self._pending[split]
        pending.tokens += [np.array(s, self._dtype) for s in sentences if s]
        pending.sentences += lengths
        pending.documents.append(len(lengths))
        pending.size += sum(lengths)

    def documents(self, split: SplitName) -> int:
        """Documents of a split so far."""
        written = sum(shard.documents for shard in self._shards[split])
        return written + len(self._pending[split].documents)

    def close(self, corpus: str, licence: str, heldout: float) -> Ledger:
        """Writes what is left, the tokenizer and, last, the ledger."""
        for split in SPLITS:
            if self._pending[split].documents:
                self._flush(split)
        for path in self._work.iterdir():
            path.replace(self._folder / path.name)
        self._work.rmdir()
        self._tokenizer.save(self._folder / TOKENIZER)
        ledger = Ledger(
            corpus=corpus,
            licence=licence,
            heldout=heldout,
            tokenizer=self._tokenizer.digest,
            vocab_size=self._tokenizer.vocab_size,
            splits=self._shards,
        )
        draft = self._folder / f"{LEDGER}.tmp"
        draft.write_text(json.dumps(asdict(ledger), indent=1) + "\n")
        draft.rename(self._folder / LEDGER)
        return ledger

    def _flush(self, split: SplitName) -> None:
        pending = self._pending[split]
        shards = self._shards[split]
        name = f"{split}-{len(shards):05}"
        arrays = {
            "tokens": np.concatenate(pending.tokens),
            "sentences": np.array(pending.sentences, np.uint32),
            "documents": np.array(pending.documents, np.uint32),
        }
        hashes = {}
        for part, array in arrays.items():
            self._work.mkdir(parents=True, exist_ok=True)
            path = self._work / f"{name}.{part}.npy"
            np.save(path, array)
            hashes[part] = sha256(path)
        sizes = {part: len(array) for part, array in arrays.items()}
        shards.append(Shard(name=name, **sizes, sha256=hashes))
        self._pending[split] = _Pending()


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
        self._tokens = [_map(folder, shard, "tokens", shard.tokens) for shard in shards]
        self._starts = _offsets([np.array([shard.tokens for shard in shards])])
        self.sentence_offsets = _offsets(
            [_map(folder, shard, "sentences", shard.sentences) for shard in shards]
        )
        self.document_offsets = _offsets(
            [_map(folder, shard, "documents", shard.documents) for shard in shards]
        )
        if self.document_offsets[-1] != len(self.sentence_offsets) - 1 or (
            self.sentence_offsets[-1] != self._starts[-1]
        ):
            raise BadInputError(f"{folder}: the shards of {name!r} contradict each other")

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

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Tokens [start, start + length) of every span, end to end.

        Args:
            starts: int64 [N]; a span does not cross a shard.
            lengths: int [N].
        """
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        shard = np.searchsorted(self._starts, starts, side="right") - 1
        index = np.repeat(starts - self._starts[shard], lengths) + within
        if len(self._tokens) == 1:
            return self._tokens[0][index]
        owner = np.repeat(shard, lengths)
        out = np.empty(len(index), self._tokens[0].dtype)
        for number in np.unique(shard):
            here = owner == number
            out[here] = self._tokens[number][index[here]]
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
        tokenizer = tokenizers.load(self.folder / TOKENIZER)
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
        return Ledger(**given)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(
            f"{path} is damaged ({error}); remove the store and prepare it again"
        ) from None


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _map(folder: Path, shard: Shard, part: str, size: int) -> np.ndarray:
    path = folder / f"{shard.name}.{part}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise BadInputError(f"{path} is missing; remove the store and prepare it again") from None
    except (ValueError, OSError, EOFError) as error:
        raise BadInputError(f"{path} is truncated or damaged: {error}") from None
    if array.shape != (size,):
        raise BadInputError(
            f"{path} holds {array.size} entries, the ledger says {size}; remove the store and"
            " prepare it again"
        )
    return array


def _offsets(lengths: list[np.ndarray]) -> np.ndarray:
    """int64 [N + 1]: where each of the N items begins, and the end."""
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
