"""Pad texts of different lengths to rows of equal length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SHORTEST = 16


def padded(ids: Sequence[Sequence[int]], rows: int, pad_id: int, max_length: int) -> np.ndarray:
    """Pad to int32 [rows, T]; T is a power of two, because each new T requires a compilation.

    Args:
        ids: Ids of at most `rows` texts, each at most `max_length` long.
        rows: Number of rows; rows beyond `ids` are padding.
        pad_id: Id of padding.
        max_length: Upper bound of T.
    """
    array = np.full((rows, padded_length(max(map(len, ids)), max_length)), pad_id, np.int32)
    for row, tokens in enumerate(ids):
        array[row, : len(tokens)] = tokens
    return array


def padded_length(longest: int, max_length: int) -> int:
    """Return T of `padded` if the longest text has `longest` tokens."""
    return min(max(_SHORTEST, 1 << (longest - 1).bit_length()), max_length)
