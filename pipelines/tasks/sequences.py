"""Rows [CLS] A [SEP] or [CLS] A [SEP] B [SEP] of texts, as in google-research/bert."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from bert_jax.runtime.console import say
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.tables.examples import Example
from pipelines.tasks.task import Arrays

_MULTIPLE = 8  # of T: each length compiles a step, so there are few


def rows(
    a: Sequence[Sequence[int]], b: Sequence[Sequence[int]], tokenizer: Tokenizer, length: int
) -> Arrays:
    """Make one row per pair of texts.

    A row that is too long loses tokens from the end of the longer text, one at a time, and from B
    if both are equally long.

    Args:
        a: Ids of the first texts, of R rows.
        b: Ids of the second texts; a row without a second text has no second [SEP].
        tokenizer: Defines the special tokens.
        length: Most tokens of a row.

    Returns:
        ``token_ids``, ``token_type_ids`` and ``segment_ids``, int32 [R, T].
    """
    a_length, b_length = _counts(a), _counts(b)
    paired = b_length > 0
    cut = int((lengths(a, b) > length).sum())
    if cut:
        say(f"{cut:,} of {len(a):,} rows are truncated to {length} tokens")
    a_length, b_length = truncated(a_length, b_length, length - 2 - paired)
    a_end = 1 + a_length  # position of the first [SEP]
    end = a_end + 1 + b_length + paired
    longest = int(end.max())
    position = np.arange(row_length(longest, length))[None]
    a_end, end = a_end[:, None], end[:, None]

    token_ids = np.full((len(a), position.shape[1]), tokenizer.pad_id, np.int32)
    token_ids[:, 0] = tokenizer.cls_id
    token_ids[(position == a_end) | (position == end - 1)] = tokenizer.sep_id
    # Both sides of an assignment are in the same order: row by row.
    token_ids[(position > 0) & (position < a_end)] = _joined(a, a_length)
    token_ids[(position > a_end) & (position < end - 1)] = _joined(b, b_length)
    inside = position < end
    return {
        "token_ids": token_ids,
        "token_type_ids": (inside & (position > a_end)).astype(np.int32),
        "segment_ids": inside.astype(np.int32),
    }


def lengths(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the tokens of rows without truncation, int64 [R]; see `rows`."""
    b_length = _counts(b)
    return _counts(a) + b_length + 2 + (b_length > 0)


def of_examples(
    examples: Sequence[Example], tokenizer: Tokenizer, length: int
) -> tuple[Arrays, np.ndarray]:
    """Return `rows` and `lengths` of examples."""
    a = tokenizer.encode([example.text for example in examples])
    b = tokenizer.encode([example.pair for example in examples])
    return rows(a, b, tokenizer, length), lengths(a, b)


def row_length(longest: int, length: int) -> int:
    """Return T for rows of at most `longest` tokens: a multiple of 8, but at most `length`."""
    return min(-(-longest // _MULTIPLE) * _MULTIPLE, length)


def truncated(a: np.ndarray, b: np.ndarray, room: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of A and B to keep, int64 [R] each, at most `room` for both; see `rows`."""
    excess = np.maximum(a + b - room, 0)
    uneven = np.minimum(excess, np.abs(a - b))
    rest = excess - uneven
    from_a = np.where(a > b, uneven, 0) + rest // 2
    return a - from_a, b - (excess - from_a)


def _counts(texts: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array([len(ids) for ids in texts], np.int64)


def _joined(texts: Sequence[Sequence[int]], lengths: np.ndarray) -> np.ndarray:
    kept = (ids[:n] for ids, n in zip(texts, lengths.tolist(), strict=True))
    return np.fromiter(chain.from_iterable(kept), np.int32, int(lengths.sum()))
