"""Rows of words with context, for tagging."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.sequences import row_length
from pipelines.tasks.task import Arrays

SPECIALS = 2  # [CLS] … [SEP]


def encode_words(words: Sequence[str], tokenizer: Tokenizer, room: int) -> list[list[int]]:
    """Return the ids of each word: at most `room`, and [UNK] for a word without tokens."""
    # A corpus repeats its words; each is encoded once.
    distinct = list(dict.fromkeys(words))
    encoded = tokenizer.encode(distinct)
    ids_of = {
        word: ids[:room] or [tokenizer.unk_id] for word, ids in zip(distinct, encoded, strict=True)
    }
    return [ids_of[word] for word in words]


def tag_rows(
    tokens: np.ndarray,
    labels: np.ndarray,
    offsets: np.ndarray,
    bounds: np.ndarray,
    documents: np.ndarray | None,
    tokenizer: Tokenizer,
    length: int,
) -> tuple[Arrays, np.ndarray]:
    """Make the rows of N sentences with W words.

    Args:
        tokens: int32: all tokens.
        labels: int32: the class of each token that begins a word.
        offsets: int [W + 1]: the first token of each word.
        bounds: int [N + 1]: the first word of each sentence.
        documents: int [N]: the document of each sentence, which is its context; None = no context.
        tokenizer: Defines the special tokens.
        length: Most tokens of a row.

    Returns:
        The arrays of `Features`, and the sentence of each row, int64 [R].
    """
    room = length - SPECIALS
    sentence, begin, end = _spans(offsets, bounds, room)
    low, high = bounds[sentence], bounds[sentence + 1]
    if documents is not None:
        low, high = (limit[sentence] for limit in _document_bounds(documents, bounds))
    first, last = _with_context(offsets, begin, end, low, high, room)
    is_first = np.zeros(len(tokens), bool)
    is_first[offsets[:-1]] = True
    token, used = _layout(offsets[first], offsets[last], length)
    tagged = is_first[token] & used
    tagged &= (token >= offsets[begin][:, None]) & (token < offsets[end][:, None])
    arrays: Arrays = {
        "token_ids": _framed(np.where(used, tokens[token], tokenizer.pad_id), used, tokenizer),
        "token_type_ids": np.zeros(token.shape, np.int32),
        "segment_ids": _framed(used.astype(np.int32), used, None),
        "weights": tagged.astype(np.float32),
        "labels": np.where(tagged, labels[token], 0).astype(np.int32),
    }
    return arrays, sentence


def _spans(
    offsets: np.ndarray, bounds: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split sentences into the words that single rows tag.

    Args:
        offsets: int [W + 1]: the first token of each word.
        bounds: int [N + 1]: the first word of each sentence.
        room: Tokens of a row.

    Returns:
        int64 [R] each: sentence, first word, one past the last word.
    """
    rows = []
    for number, (begin, end) in enumerate(pairwise(bounds)):
        most = room if offsets[end] - offsets[begin] <= room else room // 2
        while begin < end:
            fitting = int(np.searchsorted(offsets, offsets[begin] + most, side="right")) - 1
            stop = min(max(fitting, begin + 1), end)
            rows.append((number, begin, stop))
            begin = stop
    return tuple(np.array(rows, np.int64).reshape(-1, 3).T)  # type: ignore[return-value]


def _document_bounds(documents: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first word and one past the last word of each sentence's document, int64 [N] each."""
    starts = np.flatnonzero(np.diff(documents, prepend=documents[0] - 1))
    document = np.searchsorted(starts, np.arange(len(documents)), side="right") - 1
    ends = np.append(starts[1:], len(documents))
    return bounds[starts[document]], bounds[ends[document]]


def _with_context(
    offsets: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    room: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Widen spans of words to fill a row, equally on both sides if there are enough words.

    Args:
        offsets: int [W + 1]: the first token of each word.
        begin: int [R]: first word of each span.
        end: int [R]: one past its last word.
        low: int [R]: first word of its context.
        high: int [R]: one past the last word of its context.
        room: Tokens of a row.
    """
    free = room - (offsets[end] - offsets[begin])
    before, after = offsets[begin] - offsets[low], offsets[high] - offsets[end]
    left = np.maximum(free // 2, free - after)
    right = np.maximum(free - free // 2, free - before)
    first = np.searchsorted(offsets, offsets[begin] - left, side="left")
    last = np.searchsorted(offsets, offsets[end] + right, side="right") - 1
    return np.maximum(first, low), np.minimum(last, high)


def _layout(start: np.ndarray, stop: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay out the tokens start … stop - 1 of each row.

    Returns:
        int64 [R, T], the index of the token at each position (arbitrary if there is none), and
        bool [R, T], whether there is one. [CLS] and [SEP] go before and after the tokens.
    """
    longest = int((stop - start).max(initial=0)) + SPECIALS
    position = np.arange(row_length(longest, length)) - 1
    used = (position >= 0) & (position < (stop - start)[:, None])
    return np.where(used, start[:, None] + position, 0), used


def _framed(values: np.ndarray, used: np.ndarray, tokenizer: Tokenizer | None) -> np.ndarray:
    """Put [CLS] and [SEP], or ones, around the used positions of each row; int32 [R, T]."""
    values = values.astype(np.int32)
    values[:, 0] = tokenizer.cls_id if tokenizer else 1
    values[np.arange(len(values)), used.sum(axis=1) + 1] = tokenizer.sep_id if tokenizer else 1
    return values
