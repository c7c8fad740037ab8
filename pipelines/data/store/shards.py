"""From a block of text to the files of one shard: the function that every runner calls.

    STORE/work/job.json               what is being made, from what
    STORE/work/source-00.json         the blocks of a source, once it has been cut to its end
    STORE/work/00-00012/record.json   counts and hashes of a finished block
    STORE/work/00-00012/train.*.npy   its documents; see `store` for the parts, and their hashes

A block's folder appears, complete, by being renamed. What is in it depends on the block and the
recipe only, so that any number of workers and any interruption give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from sentencex import segment

from bert_jax.runtime.errors import BadInputError, UserError
from pipelines.data.sources.corpora import Block, Corpus
from pipelines.data.sources.files import Document
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
from pipelines.models.formats.config_json import read_json

RECORD = "record.json"
HASHES = "hashes"

# Sentence lengths are stored as uint16.
MAX_SENTENCE = (1 << 16) - 1

# Sentences that are encoded in one call: enough to keep Python out of the way.
_CHUNK = 4096
_SLICE = 1 << 20  # characters of one call to the tokenizer
# A source whose lines are, with few exceptions, single sentences is not split any further.
_SAMPLE_LINES, _SINGLE_SENTENCES = 2000, 0.9


@dataclass(frozen=True)
class Recipe:
    """What decides the tokens, besides text and tokenizer.

    Attributes:
        heldout: Share of the documents that is held out, chosen by their hash.
        language: ISO 639 code, for the rules of sentence splitting.
        whole_lines: For every source, whether its lines are sentences already.
        min_characters: Shorter documents are left out.
        deduplicate: Leave out documents that were there before.
    """

    heldout: float
    language: str
    whole_lines: tuple[bool, ...]
    min_characters: int
    deduplicate: bool


@dataclass(frozen=True)
class Job:
    """A store that is being made in `store`."""

    store: Path
    recipe: Recipe

    @property
    def work(self) -> Path:
        """Folder of what is finished so far."""
        return self.store / WORK


@dataclass
class Collected:
    """The documents of one split of a block."""

    tokens: list[np.ndarray] = field(default_factory=list)
    sentences: list[np.ndarray] = field(default_factory=list)
    documents: list[np.ndarray] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)


def cut(job: Job, corpus: Corpus, number: int) -> Iterator[Block]:
    """The blocks of source `number` that are not finished; notes at the end how many there are."""
    names = []
    for block in corpus.blocks(number):
        names.append(block.name)
        if not (job.work / block.name / RECORD).is_file():
            yield block
    write_json(job.work / f"source-{number:02}.json", names)


def make_shard(job: Job, block: Block) -> dict[str, Any]:
    """Tokenises a block into ``STORE/work/NAME``.

    Returns:
        The record: sizes, and what was left out.

    Raises:
        BadInputError: The text cannot be read or does not fit the store; the disk is full.
    """
    tokenizer = _tokenizer(job.work / TOKENIZER)
    whole_lines = job.recipe.whole_lines[int(block.name.partition("-")[0])]
    collected = {split: Collected() for split in SPLITS}
    record: dict[str, Any] = {"read": 0, "too_short": 0, "empty": 0, "characters": 0}
    documents: list[list[str]] = []
    hashes: list[bytes] = []
    waiting = 0

    def encode() -> None:
        heldout = job.recipe.heldout
        record["empty"] += _encode(tokenizer, documents, hashes, heldout, collected, block.origin)

    for document in block.documents():
        record["read"] += 1
        characters = sum(map(len, document))
        if characters < job.recipe.min_characters:
            record["too_short"] += 1
            continue
        record["characters"] += characters
        hashes.append(hashlib.blake2b("\n".join(document).encode(), digest_size=16).digest())
        documents.append(document if whole_lines else split_document(document, job.recipe.language))
        waiting += len(documents[-1]) + characters * _CHUNK // _SLICE
        if waiting >= _CHUNK:
            encode()
            documents, hashes, waiting = [], [], 0
    encode()
    record["splits"] = _write(job.work, block.name, collected, tokenizer, record)
    return record


def split_document(document: Document, language: str) -> list[str]:
    """The sentences of the lines of a document."""
    return [
        stripped
        for line in document
        for sentence in segment(language, line)
        if (stripped := sentence.strip())
    ]


def has_whole_lines(corpus: Corpus, number: int, language: str) -> bool:
    """Whether the lines of a source are sentences already, judged by its first lines."""
    known = corpus.sources[number].one_sentence_per_line
    if known is not None:
        return known
    lines = single = 0
    for block in corpus.blocks(number):
        for document in block.documents():
            for line in document:
                lines += 1
                single += len(split_document([line], language)) <= 1
            if lines >= _SAMPLE_LINES:
                return single >= _SINGLE_SENTENCES * lines
    return single >= _SINGLE_SENTENCES * lines


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is either there as a whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(content) + "\n", "utf-8")
    draft.replace(path)


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.load(folder)


def _encode(
    tokenizer: tokenizers.Tokenizer,
    documents: list[list[str]],
    hashes: list[bytes],
    heldout: float,
    collected: dict[SplitName, Collected],
    origin: str,
) -> int:
    """Adds documents to `collected`; returns how many had no token.

    Raises:
        BadInputError: A sentence does not fit the store.
    """
    if not documents:
        return 0
    sentences = list(chain.from_iterable(documents))
    lengths, tokens = _encoded(tokenizer, sentences)
    if lengths.max(initial=0) > MAX_SENTENCE:
        text = sentences[int(lengths.argmax())]
        raise BadInputError(
            f"{origin} has a sentence of {lengths.max():,} tokens, the most is {MAX_SENTENCE:,};"
            f" it begins with {text[:60]!r}. Take it out, or put it on several lines"
        )
    owner = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    per_document = np.bincount(owner[lengths > 0], minlength=len(documents))
    keys = np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2)
    is_heldout = keys[:, 0] * 2.0**-64 < heldout
    for split, into in collected.items():
        chosen = (is_heldout == (split == "heldout")) & (per_document > 0)
        if not chosen.any():
            continue
        sentence_chosen = chosen[owner] & (lengths > 0)
        all_tokens = sentence_chosen.sum() == (lengths > 0).sum()
        into.tokens.append(tokens if all_tokens else tokens[np.repeat(sentence_chosen, lengths)])
        into.sentences.append(lengths[sentence_chosen].astype(np.uint16))
        into.documents.append(per_document[chosen].astype(np.uint32))
        into.hashes.append(keys[chosen])
    return int((per_document == 0).sum())


def _encoded(
    tokenizer: tokenizers.Tokenizer, sentences: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each sentence, and all tokens end to end.

    Some characters at a time: as lists of Python integers tokens take twenty times the memory.
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
    """Writes the folder of a block; returns what the record says of its splits."""
    draft = work / f"{name}.{os.getpid()}.tmp"
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
    if target.is_dir():  # without a record: not finished
        shutil.rmtree(target)
    draft.rename(target)
    return splits


def save_arrays(
    folder: Path, prefix: str, arrays: dict[str, np.ndarray], unk_id: int
) -> dict[str, Any]:
    """Writes arrays as ``folder/PREFIX + PART.npy``; returns sizes and hashes.

    Raises:
        OSError: The disk is full.
    """
    hashes = {}
    for part, array in arrays.items():
        path = folder / f"{prefix}{part}.npy"
        np.save(path, array)
        hashes[part] = sha256(path)
    sizes = {part: len(arrays[part]) for part in PARTS}
    unknown = int(np.count_nonzero(arrays["tokens"] == unk_id))
    return {**sizes, "unknown": unknown, "sha256": hashes}


def check_part(path: Path, known: Any, block: Path) -> Path:
    """The file of an array of a finished block, whose SHA-256 is `known`.

    Raises:
        UserError: It is damaged. Then the block is one that is not finished.
    """
    if not path.is_file() or sha256(path) != known:
        (block / RECORD).unlink()
        raise UserError(f"{path} is damaged; the same command makes block {block.name} again")
    return path


def load_part(block: Path, split: SplitName, part: str, known: Any) -> np.ndarray:
    """The array in it."""
    path = check_part(block / f"{split}.{part}.npy", known, block)
    return np.load(path, allow_pickle=False)


def read_record(work: Path, name: str) -> dict[str, Any]:
    """The record of a finished block."""
    return read_json(work / name / RECORD)


def job_note(corpus: Corpus, recipe: Recipe, tokenizer: str) -> dict[str, Any]:
    """What two commands must have in common to go on with each other's work."""
    note = {
        "corpus": corpus.spec,
        "tokenizer": tokenizer,
        **asdict(recipe),
        "files": corpus.files,
    }
    plain: dict[str, Any] = json.loads(json.dumps(note))
    return plain
