"""Describe the content of a store, for people (card.md) and programs (card.json)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.runtime.errors import printable
from pipelines.data.store.token_store import CARD_DATA, SPLITS, Ledger

CARD = "card.md"
FILES = (CARD_DATA, CARD)

_BINS = 40  # powers of two
_LISTED_BAD_ROWS = 100


def write(
    folder: Path,
    ledger: Ledger,
    tokens_read: int,
    bad_rows: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Write both cards of a store.

    Args:
        folder: The folder with its shards.
        ledger: Its description.
        tokens_read: Tokens of all documents, with those of the copies that were dropped.
        bad_rows: The rows that were skipped.
        warnings: What looks wrong in the corpus.
    """
    content = describe(folder, ledger, tokens_read)
    content |= {"warnings": list(warnings), "bad_rows": list(bad_rows[:_LISTED_BAD_ROWS])}
    (folder / FILES[0]).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    (folder / FILES[1]).write_text(_markdown(content), "utf-8")


def describe(folder: Path, ledger: Ledger, tokens_read: int) -> dict[str, Any]:
    """Return counts, fractions and histograms of lengths; `tokens_read` as in `write`."""
    splits: dict[str, Any] = {}
    for name in SPLITS:
        sentences, documents = np.zeros((2, _BINS), np.int64)
        for shard in ledger.splits[name]:  # one at a time, to bound the memory
            sizes, counts = (
                np.load(folder / f"{shard.name}.{part}.npy", allow_pickle=False)
                for part in ("sentences", "documents")
            )
            firsts = np.cumsum(counts, dtype=np.int64) - counts
            sentences += _binned(sizes)
            documents += _binned(np.add.reduceat(sizes, firsts, dtype=np.int64))
        splits[name] = {
            "documents": ledger.total(name, "documents"),
            "sentences": ledger.total(name, "sentences"),
            "tokens": ledger.total(name, "tokens"),
            "tokens_per_sentence": _histogram(sentences),
            "tokens_per_document": _histogram(documents),
        }
    tokens = sum(splits[name]["tokens"] for name in SPLITS)
    return {
        "corpus": ledger.corpus,
        "licence": ledger.licence,
        "splits": splits,
        "left_out": {
            key: ledger.counts.get(key, 0)
            for key in ("duplicates", "too_short", "empty", "bad_rows")
        },
        "characters": ledger.counts["characters"],
        "characters_per_token": round(ledger.counts["characters"] / max(1, tokens_read), 3),
        "unknown_rate": ledger.counts["unknown"] / max(1, tokens),
        "vocab_size": ledger.vocab_size,
        "recipe": ledger.recipe,
        "tokenizer_sha256": ledger.tokenizer,
        "store_sha256": ledger.digest,
    }


def _binned(lengths: np.ndarray) -> np.ndarray:
    """Count the lengths in [1, 2), [2, 4), [4, 8), …; int64 [_BINS]."""
    return np.bincount(np.log2(lengths).astype(np.int64), minlength=_BINS)


def _histogram(counts: np.ndarray) -> dict[str, int]:
    return {f"{1 << power}-{(2 << power) - 1}": int(n) for power, n in enumerate(counts) if n}


def _markdown(card: dict[str, Any]) -> str:
    splits, left_out = card["splits"], card["left_out"]
    recipe = ", ".join(f"{key} {value}" for key, value in card["recipe"].items())
    rows = [
        f"| {count} | " + " | ".join(f"{splits[name][count]:,}" for name in SPLITS) + " |"
        for count in ("documents", "sentences", "tokens")
    ]
    lines = [
        f"# {escaped(card['corpus'])}",
        "",
        f"Licence of the text: {escaped(card['licence'])}",
        "",
        "| | " + " | ".join(SPLITS) + " |",
        "|---|" + "---:|" * len(SPLITS),
        *rows,
        "",
        f"* Left out: {left_out['duplicates']:,} documents that were there before,"
        f" {left_out['too_short']:,} too short, {left_out['empty']:,} without a token.",
        f"* {card['characters_per_token']} characters per token; {card['unknown_rate']:.4%} of the"
        f" tokens are [UNK]; a vocabulary of {card['vocab_size']:,}.",
        f"* Recipe: {escaped(recipe)}.",
        f"* SHA-256 of the tokenizer {card['tokenizer_sha256']}, of the store"
        f" {card['store_sha256']}.",
    ]
    if card["warnings"]:
        lines += ["", "## Warnings", "", *(f"* {escaped(line)}" for line in card["warnings"])]
    if card["bad_rows"]:
        lines += ["", f"## Rows without a text ({left_out['bad_rows']:,} were skipped)", ""]
        lines += [f"* {escaped(row)}" for row in card["bad_rows"]]
    for name in ("tokens_per_sentence", "tokens_per_document"):
        buckets = splits["train"][name]
        largest = max(buckets.values(), default=1)
        lines += ["", f"## {name.replace('_', ' ').capitalize()} (train)", "", "```"]
        lines += [f"{k:>15} {n:>12,} {'#' * round(40 * n / largest)}" for k, n in buckets.items()]
        lines.append("```")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Escape a text for a line of Markdown."""
    line = printable(" ".join(text.split()))
    return "".join(f"\\{c}" if c in r"\`*_[]<>#|&~" else c for c in line)
