"""Assemble the finished blocks of a job to a store: remove duplicates, write ledger and card.

Every step can be repeated after an interruption, because the folder of a block, with its record and
its hashes, stays until the ledger exists.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.runtime.errors import BadInputError, UserError
from pipelines.data.sources.corpora import Corpus
from pipelines.data.store import card
from pipelines.data.store.diagnosis import warnings, warnings_of_copies
from pipelines.data.store.shards import (
    HASHES,
    RECORD,
    Job,
    check_part,
    load_part,
    read_record,
    save_arrays,
    write_json,
)
from pipelines.data.store.token_store import (
    LEDGER,
    PARTS,
    SPLITS,
    TOKENIZER,
    Ledger,
    Shard,
    SplitName,
)
from pipelines.data.tokenizers.tokenizer import Tokenizer

# Hashes of documents that are compared at once: 16 bytes each, and as much again to sort them.
_MAX_HASHES = 1 << 23


def assemble(job: Job, corpus: Corpus, tokenizer: Tokenizer, max_bad: float = 0.0) -> Ledger:
    """Make the store from the finished blocks.

    Args:
        job: The store.
        corpus: Its text.
        tokenizer: Its tokenizer.
        max_bad: Largest fraction of rows that may be skipped because they have no text.

    Raises:
        UserError: The runner lost a block.
        BadInputError: The corpus has too few documents, or too many rows without a text.
    """
    names = finished_blocks(job, len(corpus.sources))
    records = {name: read_record(job.work, name) for name in names}
    bad_rows = _checked_bad_rows(records, max_bad)
    dropped = _duplicates(job.work, records) if job.recipe.deduplicate else {}
    shards: dict[SplitName, list[Shard]] = {split: [] for split in SPLITS}
    unknown = 0
    for name, record in records.items():
        for split in SPLITS:
            if split not in record["splits"]:
                continue
            sizes = _shard(job, name, split, record, dropped.get((name, split)), tokenizer.unk_id)
            unknown += sizes.pop("unknown")
            if sizes["documents"]:
                shards[split].append(Shard(name=f"{split}-{name}", **sizes))
    counts = {
        "read": sum(record["read"] for record in records.values()),
        "too_short": sum(record["too_short"] for record in records.values()),
        "empty": sum(record["empty"] for record in records.values()),
        "duplicates": sum(map(len, dropped.values())),
        "characters": sum(record["characters"] for record in records.values()),
        "unknown": unknown,
    }
    if bad_rows:  # otherwise the ledger is that of earlier versions
        counts["bad_rows"] = len(bad_rows)
    _check_enough(counts, shards, corpus.spec)
    _check_counts(counts, shards)
    tokenizer.save(job.store / TOKENIZER)  # an interruption may have left half of it
    ledger = Ledger(
        corpus=corpus.spec,
        files=corpus.files,
        licence=corpus.license,
        recipe={**asdict(job.recipe), "whole_lines": list(job.recipe.whole_lines)},
        tokenizer=tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        counts=counts,
        splits=shards,
    )
    signs = warnings(records, corpus, tokenizer) + warnings_of_copies(counts)
    splits = [split for record in records.values() for split in record["splits"].values()]
    tokens_read = sum(split["tokens"] for split in splits)
    card.write(job.store, ledger, tokens_read, bad_rows, signs)
    write_json(job.store / LEDGER, asdict(ledger))
    shutil.rmtree(job.work)
    return ledger


def _checked_bad_rows(records: dict[str, dict[str, Any]], max_bad: float) -> list[str]:
    """List the skipped rows.

    Raises:
        BadInputError: They are too many.
    """
    bad_rows = [line for record in records.values() for line in record.get("bad_rows", ())]
    rows = sum(record["read"] for record in records.values())
    if len(bad_rows) > max_bad * rows:
        raise BadInputError(
            f"{len(bad_rows):,} of {rows:,} rows have no text ({len(bad_rows) / rows:.2%}), such as"
            f" {bad_rows[0]}. The limit is --max-bad {max_bad:g}: correct the rows, or run the same"
            " command with a higher limit"
        )
    return bad_rows


def finished_blocks(job: Job, sources: int) -> list[str]:
    """List the names of all blocks, in the order of the corpus.

    Raises:
        UserError: A block of a source is missing.
    """
    names: list[str] = []
    for number in range(sources):
        path = job.work / f"source-{number:02}.json"
        if not path.is_file():
            raise UserError(f"corpus source {number} is incomplete; run the same command again")
        names += json.loads(path.read_text("utf-8"))
    lost = [name for name in names if not (job.work / name / RECORD).is_file()]
    if lost:
        raise UserError(
            f"{len(lost)} of {len(names)} blocks were lost by the runner ({', '.join(lost[:5])});"
            " run the same command again"
        )
    return names


def _duplicates(
    work: Path, records: dict[str, dict[str, Any]]
) -> dict[tuple[str, SplitName], np.ndarray]:
    """Find the repeated documents of each block, in bounded memory."""
    total = sum(
        split["documents"] for record in records.values() for split in record["splits"].values()
    )
    parts = max(1, 1 << (total // _MAX_HASHES).bit_length())
    repeated: dict[tuple[str, SplitName], list[np.ndarray]] = {}
    for part in range(parts if total else 0):
        sources: list[tuple[str, SplitName]] = []
        keys, shard, row = [], [], []
        for name, split, hashes in _hashes(work, records):
            rows = np.flatnonzero(hashes[:, 1] & np.uint64(parts - 1) == part)
            keys.append(hashes[rows])
            row.append(rows)
            shard.append(np.full(len(rows), len(sources)))
            sources.append((name, split))
        # A stable sort keeps equal documents in the order of the corpus.
        key = np.concatenate(keys)
        order = np.lexsort((key[:, 1], key[:, 0]))
        repeats = np.flatnonzero((key[order[1:]] == key[order[:-1]]).all(axis=1)) + 1
        shards, rows = (np.concatenate(x)[order[repeats]] for x in (shard, row))
        for number in np.unique(shards):
            repeated.setdefault(sources[number], []).append(rows[shards == number])
    return {source: np.sort(np.concatenate(rows)) for source, rows in repeated.items()}


def _hashes(
    work: Path, records: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, SplitName, np.ndarray]]:
    for name, record in records.items():
        for split, content in record["splits"].items():
            digest = content["sha256"].get(HASHES)
            yield name, split, load_part(work / name, split, HASHES, digest)


def _shard(
    job: Job,
    name: str,
    split: SplitName,
    record: dict[str, Any],
    dropped: np.ndarray | None,
    unk_id: int,
) -> dict[str, Any]:
    """Put the files of a shard into the store; return its sizes and hashes."""
    content, block = record["splits"][split], job.work / name
    digests = {part: content["sha256"][part] for part in PARTS}
    if dropped is None:
        for part in PARTS:
            source, target = block / f"{split}.{part}.npy", job.store / f"{split}-{name}.{part}.npy"
            if source.exists():  # otherwise it was moved before an interruption
                check_part(source, digests[part], block).rename(target)
            else:
                check_part(target, digests[part], block)
        return {**content, "sha256": digests}
    tokens, sentences, documents = (load_part(block, split, part, digests[part]) for part in PARTS)
    kept = np.ones(len(documents), bool)
    kept[dropped] = False
    kept_sentences = np.repeat(kept, documents)
    arrays = {
        "tokens": tokens[np.repeat(kept_sentences, sentences)],
        "sentences": sentences[kept_sentences],
        "documents": documents[kept],
    }
    if not kept.any():
        return {"documents": 0, "sentences": 0, "tokens": 0, "unknown": 0, "sha256": {}}
    # The files of the block stay, so that this can be repeated after an interruption.
    return save_arrays(job.store, f"{split}-{name}.", arrays, unk_id)


def _check_enough(counts: dict[str, int], shards: dict[SplitName, list[Shard]], spec: str) -> None:
    train, held_out = (sum(shard.documents for shard in shards[split]) for split in SPLITS)
    if train > 1:
        return
    skipped = {
        "are copies; keep them with --keep-duplicates": counts["duplicates"],
        "are shorter than --min-characters; lower it": counts["too_short"],
        "are held out; lower --held-out": held_out,
    }
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items() if count)
    if reasons:
        raise BadInputError(
            f"corpus {spec!r}: {train} of {counts['read']:,} documents remain for training, which"
            f" needs two: {reasons}, or add documents"
        )
    if not train:
        raise BadInputError(f"corpus {spec!r} is empty: no document has a token; check the text")
    raise BadInputError(
        f"corpus {spec!r} has 1 document for training, which needs two; add documents, or check how"
        " this format separates them"
    )


def _check_counts(counts: dict[str, int], shards: dict[SplitName, list[Shard]]) -> None:
    kept = sum(shard.documents for split in SPLITS for shard in shards[split])
    reasons = ("too_short", "empty", "duplicates", "bad_rows")
    skipped = sum(counts.get(reason, 0) for reason in reasons)
    if counts["read"] != kept + skipped:
        raise UserError(
            f"{counts['read']:,} documents were read, but {kept:,} are stored and {skipped:,} were"
            " skipped: shards were lost; remove the folder and run the same command again"
        )
