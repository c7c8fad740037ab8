"""Rows of equal length from texts of any length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SHORTEST = 16


def padded(ids: Sequence[Sequence[int]], rows: int, pad_id: int, longest: int) -> np.ndarray:
    """int32 [rows, T], where T is a power of two: every new length compiles a program.

    Args:
        ids: Of at most `rows` texts, each at most `longest` long.
        rows: Of the result; those beyond `ids` are padding.
        pad_id: Stands behind a text.
        longest: T where no power of two fits.
    """
    array = np.full((rows, padded_length(max(map(len, ids)), longest)), pad_id, np.int32)
    for row, tokens in enumerate(ids):
        array[row, : len(tokens)] = tokens
    return array


def padded_length(needed: int, longest: int) -> int:
    """T of `padded` for a longest text of `needed` tokens."""
    return min(max(_SHORTEST, 1 << (needed - 1).bit_length()), longest)
