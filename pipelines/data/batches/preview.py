"""A training batch as colored text: masks, segments and labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.text import Text

from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import printable
from bert_jax.training.batch import Arrays
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import Tokenizer

# Styles of segment A, of segment B, and of predicted tokens by their replacement.
_TOKEN_TYPES = ("", "cyan")
_MASKED, _RANDOM, _KEPT = "bold yellow", "bold red", "bold green"
_LEGEND = ("segment A", "segment B", "{hidden}", "{replaced → by a random token}", "{kept}")


def preview(store: Store, config: RunConfig, step: int, rows: int) -> Iterator[Text]:
    """Yield a legend, a summary and the first `rows` rows of the batch of `step`."""
    batch = PretrainingData(store, config).batch_at(step)
    legend = Text("legend  ")
    for style, meaning in zip((*_TOKEN_TYPES, _MASKED, _RANDOM, _KEPT), _LEGEND, strict=True):
        legend.append(meaning, style).append("  ")
    yield legend
    size = batch.arrays["token_ids"].size
    yield Text(f"step {step:,}: {batch.tokens:,} tokens, {batch.tokens / size:.1%} full")
    for row in range(min(rows, len(batch.arrays["token_ids"]))):
        yield from describe(batch.arrays, row, store.tokenizer)


def describe(arrays: Arrays, row: int, tokenizer: Tokenizer) -> list[Text]:
    """Return the sequences of a row, each as its label and its text."""
    texts = []
    segments = arrays["segment_ids"][row]
    for number in range(1, int(segments.max()) + 1):
        (positions,) = np.nonzero(segments == number)
        label = _label(arrays, row, number - 1)
        text = Text(f"\nrow {row}, {label}, {len(positions)} tokens:")
        for position in positions:
            _append(text, arrays, row, int(position), tokenizer)
        texts.append(text)
    return texts


def _label(arrays: Arrays, row: int, slot: int) -> str:
    if not arrays["nsp_weights"][row, slot]:
        return "one segment"
    return "B does not follow A" if arrays["nsp_labels"][row, slot] else "B follows A"


def _append(text: Text, arrays: Arrays, row: int, position: int, tokenizer: Tokenizer) -> None:
    token = int(arrays["token_ids"][row, position])
    style = _TOKEN_TYPES[int(arrays["token_type_ids"][row, position])]
    used = arrays["mlm_weights"][row] > 0
    (slot,) = np.nonzero(used & (arrays["mlm_positions"][row] == position))
    if not len(slot):
        text.append(printable(tokenizer.spelled(token)), style)
        return
    original = int(arrays["mlm_targets"][row, slot[0]])
    word = printable(tokenizer.spelled(original))
    space, word = word[: len(word) - len(word.lstrip())], word.lstrip()
    text.append(space)
    if token == tokenizer.mask_id:
        text.append(f"{{{word}}}", _MASKED)
    elif token == original:
        text.append(f"{{{word}}}", _KEPT)
    else:
        replacement = printable(tokenizer.spelled(token)).strip()
        text.append(f"{{{word} → {replacement}}}", _RANDOM)
