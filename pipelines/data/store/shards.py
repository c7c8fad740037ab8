"""Make the files of one shard from a block of text; every runner calls `make_shard`.

    STORE/work/job.json               corpus, tokenizer and recipe of the store
    STORE/work/source-00.json         the names of the blocks of a source, once it is cut to its end
    STORE/work/00-00012/record.json   counts and hashes of a finished block
    STORE/work/00-00012/train.*.npy   its documents, as in `token_store`, and their hashes

The folder of a block is written under a temporary name and renamed. Its content depends on the
block and the recipe only, so that any number of workers and any interruption give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UserError
from pipelines.data.sources.corpora import Block, Corpus
from pipelines.data.sources.documents import split_sentences
from pipelines.data.sources.source import stop_at
from pipelines.data.store.diagnosis import KEY as SIGNS
from pipelines.data.store.diagnosis import Signs
from pipelines.data.store.token_store import (
    PARTS,
    SPLITS,
    TOKENIZER,
    WORK,
    SplitName,
    sha256,
    token_dtype,
)
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.json_files import read_json

RECORD = "record.json"
HASHES = "hashes"

# Sentence lengths are stored as uint16.
MAX_SENTENCE = (1 << 16) - 1

# Sentences that are encoded in one call, enough to make the overhead of Python small.
_CHUNK = 4096
_SLICE = 1 << 20  # characters per call of the tokenizer


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the tokens, besides text and tokenizer.

    Attributes:
        heldout: Fraction of the documents that is held out, chosen by their hash.
        language: ISO 639 code, for the rules of sentence splitting.
        whole_lines: For every source, whether its lines are sentences.
        min_characters: Shorter documents are skipped.
        deduplicate: Skip exact copies of documents.
    """

    heldout: float
    language: str
    whole_lines: tuple[bool, ...]
    min_characters: int
    deduplicate: bool

    def __post_init__(self) -> None:
        """Check the fraction of held-out documents."""
        if not 0 <= self.heldout < 1:
            raise BadArgumentsError(f"--held-out must be in [0, 1), not {self.heldout}")


@dataclass(frozen=True)
class Job:
    """A store that is made in the folder `store`.

    Attributes:
        store: The folder.
        recipe: What determines the tokens.
        skip_bad_rows: Skip and list rows without a text, instead of stopping at the first one.
    """

    store: Path
    recipe: Recipe
    skip_bad_rows: bool = False

    @property
    def work(self) -> Path:
        """Folder of the finished blocks."""
        return self.store / WORK


@dataclass
class Collected:
    """The documents of one split of a block."""

    tokens: list[np.ndarray] = field(default_factory=list)
    sentences: list[np.ndarray] = field(default_factory=list)
    documents: list[np.ndarray] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)


def cut(job: Job, corpus: Corpus, number: int) -> Iterator[Block]:
    """Yield the unfinished blocks of source `number`; finally write the names of all its blocks."""
    names = []
    for block in corpus.blocks(number):
        names.append(block.name)
        if not (job.work / block.name / RECORD).is_file():
            yield block
    write_json(job.work / f"source-{number:02}.json", names)


def make_shard(job: Job, block: Block) -> dict[str, Any]:
    """Tokenize a block into ``STORE/work/NAME``.

    Returns:
        The record: sizes and numbers of skipped documents.

    Raises:
        BadInputError: The text cannot be read or does not fit the store.
    """
    folder = job.work / TOKENIZER
    tokenizer = _tokenizer(folder, folder.stat().st_mtime_ns)
    whole_lines = job.recipe.whole_lines[int(block.name.partition("-")[0])]
    collected = {split: Collected() for split in SPLITS}
    record: dict[str, Any] = {"read": 0, "too_short": 0, "empty": 0, "characters": 0}
    documents: list[list[str]] = []
    hashes: list[bytes] = []
    signs = Signs()
    pending = 0

    def encode() -> None:
        heldout = job.recipe.heldout
        record["empty"] += _encode(tokenizer, documents, hashes, heldout, collected, block.origin)

    def skip(position: str, reason: str) -> None:
        record["read"] += 1
        record.setdefault("bad_rows", []).append(f"{position}: {reason}")

    for document in block.documents(skip if job.skip_bad_rows else stop_at):
        record["read"] += 1
        characters = sum(map(len, document))
        if characters < job.recipe.min_characters:
            record["too_short"] += 1
            continue
        if not document:
            record["empty"] += 1
            continue
        record["characters"] += characters
        hashes.append(hashlib.blake2b("\n".join(document).encode(), digest_size=16).digest())
        documents.append(
            document if whole_lines else split_sentences(document, job.recipe.language)
        )
        signs.add(document, len(documents[-1]))
        pending += len(documents[-1]) + characters * _CHUNK // _SLICE
        if pending >= _CHUNK:
            encode()
            documents, hashes, pending = [], [], 0
    encode()
    record[SIGNS] = signs.record()
    record["splits"] = _write(job.work, block.name, collected, tokenizer, record)
    return record


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(content) + "\n", "utf-8")
    draft.replace(path)


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, modified: int) -> tokenizers.Tokenizer:
    """Load a tokenizer; workers of a cluster may meet another one under the same path later."""
    return tokenizers.load(folder)


def _encode(
    tokenizer: tokenizers.Tokenizer,
    documents: list[list[str]],
    hashes: list[bytes],
    heldout: float,
    collected: dict[SplitName, Collected],
    origin: str,
) -> int:
    """Add documents to `collected`; return how many had no token.

    Raises:
        BadInputError: A sentence is too long for the store.
    """
    if not documents:
        return 0
    sentences = list(chain.from_iterable(documents))
    lengths, tokens = _encoded(tokenizer, sentences)
    if lengths.max(initial=0) > MAX_SENTENCE:
        text = sentences[int(lengths.argmax())]
        raise BadInputError(
            f"{origin} has a sentence of {lengths.max():,} tokens, which begins with {text[:60]!r};"
            f" the maximum is {MAX_SENTENCE:,}. Remove it, or put it on several lines"
        )
    owner = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    per_document = np.bincount(owner[lengths > 0], minlength=len(documents))
    keys = np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2)
    is_heldout = keys[:, 0] * 2.0**-64 < heldout
    for split, target in collected.items():
        chosen = (is_heldout == (split == "heldout")) & (per_document > 0)
        if not chosen.any():
            continue
        sentence_chosen = chosen[owner] & (lengths > 0)
        all_tokens = sentence_chosen.sum() == (lengths > 0).sum()
        target.tokens.append(tokens if all_tokens else tokens[np.repeat(sentence_chosen, lengths)])
        target.sentences.append(lengths[sentence_chosen].astype(np.uint16))
        target.documents.append(per_document[chosen].astype(np.uint32))
        target.hashes.append(keys[chosen])
    return int((per_document == 0).sum())


def _encoded(
    tokenizer: tokenizers.Tokenizer, sentences: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of tokens of each sentence, and all tokens concatenated.

    The text is encoded in slices, because lists of Python integers need twenty times the memory.
    """
    ends = np.cumsum(np.fromiter(map(len, sentences), np.int64, len(sentences)))
    cuts = np.searchsorted(ends, np.arange(_SLICE, ends[-1] + _SLICE, _SLICE), side="left") + 1
    dtype = token_dtype(tokenizer.vocab_size)
    lengths, tokens = [], []
    first = 0
    for end in np.unique(np.minimum(cuts, len(sentences))).tolist():
        ids = tokenizer.encode(sentences[first:end])
        lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
        total = int(lengths[-1].sum())
        tokens.append(np.fromiter(chain.from_iterable(ids), dtype, total))
        first = end
    return np.concatenate(lengths), np.concatenate(tokens)


def _write(
    work: Path,
    name: str,
    collected: dict[SplitName, Collected],
    tokenizer: tokenizers.Tokenizer,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Write the folder of a block; return the entry of its record for each split."""
    # Processes of several machines can have the same number.
    draft = work / f"{name}.{secrets.token_hex(4)}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    splits: dict[str, Any] = {}
    try:
        for split, parts in collected.items():
            if not parts.documents:
                continue
            arrays = {part: np.concatenate(getattr(parts, part)) for part in (*PARTS, HASHES)}
            splits[split] = save_arrays(draft, f"{split}.", arrays, tokenizer.unk_id)
        write_json(draft / RECORD, record | {"splits": splits})
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    target = work / name
    if (target / RECORD).is_file():  # finished by a worker of a cluster that seemed lost
        shutil.rmtree(draft)
        return splits
    if target.is_dir():  # without a record, so unfinished
        shutil.rmtree(target)
    draft.rename(target)
    return splits


def save_arrays(
    folder: Path, prefix: str, arrays: dict[str, np.ndarray], unk_id: int
) -> dict[str, Any]:
    """Write arrays as ``folder/PREFIX + PART.npy``; return sizes and hashes.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    hashes = {}
    for part, array in arrays.items():
        path = folder / f"{prefix}{part}.npy"
        np.save(path, array)
        hashes[part] = sha256(path)
    sizes = {part: len(arrays[part]) for part in PARTS}
    unknown = int(np.count_nonzero(arrays["tokens"] == unk_id))
    return {**sizes, "unknown": unknown, "sha256": hashes}


def check_part(path: Path, digest: Any, block: Path) -> Path:
    """Compare a file of a finished block with its SHA-256, and return its path.

    Raises:
        UserError: The file is damaged. The block then counts as unfinished.
    """
    if not path.is_file() or sha256(path) != digest:
        (block / RECORD).unlink()
        raise UserError(
            f"{path} is damaged; run the same command again to repeat block {block.name}"
        )
    return path


def load_part(block: Path, split: SplitName, part: str, digest: Any) -> np.ndarray:
    """Load an array of a finished block; see `check_part` for the errors."""
    path = check_part(block / f"{split}.{part}.npy", digest, block)
    return np.load(path, allow_pickle=False)


def read_record(work: Path, name: str) -> dict[str, Any]:
    """Read the record of a finished block."""
    return read_json(work / name / RECORD)


def job_spec(corpus: Corpus, recipe: Recipe, tokenizer: str) -> dict[str, Any]:
    """Describe the job; a command resumes unfinished work only if its description is equal."""
    spec = {
        "corpus": corpus.spec,
        "tokenizer": tokenizer,
        **asdict(recipe),
        "files": corpus.files,
    }
    plain: dict[str, Any] = json.loads(json.dumps(spec))
    return plain
