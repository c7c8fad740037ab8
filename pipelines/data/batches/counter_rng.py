"""Counter-based random numbers: every draw is a pure function of a key and a counter.

There is no generator state, so any process can compute the batch of any step, also after a restart.
The numbers do not depend on the version of NumPy. The generator is SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): a Weyl sequence followed by a
mixing function.
"""

from __future__ import annotations

import numpy as np

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def key(*parts: int | np.ndarray) -> np.ndarray:
    """Return a key (uint64) made from integers or from arrays of them, which broadcast."""
    return extended(np.zeros((), np.uint64), *parts)


def extended(key: np.ndarray, *parts: int | np.ndarray) -> np.ndarray:
    """Return the key made from the parts of `key` and from more."""
    for part in parts:
        key = bits(key, np.asarray(part).astype(np.uint64))
    return key


def bits(key: np.ndarray, counter: np.ndarray | np.uint64) -> np.ndarray:
    """Return 64 random bits per pair of a key and a counter; both are uint64 and broadcast."""
    with np.errstate(over="ignore"):
        state = key + (counter + np.uint64(1)) * _WEYL
        x = np.atleast_1d(state)
        for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
            x ^= x >> shift
            x *= multiplier
        x ^= x >> _SHIFTS[2]
    return x.reshape(np.shape(state))


def uniform(bits: np.ndarray) -> np.ndarray:
    """Convert random bits to float64 in [0, 1)."""
    return (bits >> np.uint64(11)) * 2.0**-53


def below(bits: np.ndarray, bound: int | np.ndarray) -> np.ndarray:
    """Convert random bits to int64 in [0, bound), where `bound` is at most 2**32."""
    return (uniform(bits) * bound).astype(np.int64)


def binomial_half(key: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Count the heads among `trials` tosses of a fair coin, once per key; int64 [N].

    Args:
        key: uint64 [N].
        trials: int64 [N].
    """
    heads = np.zeros(len(trials), np.int64)
    remaining = trials.copy()
    active = np.flatnonzero(remaining > 0)
    word = 0
    while len(active):
        used = np.minimum(remaining[active], 64).astype(np.uint64)
        tosses = bits(key[active], np.uint64(word)) >> (np.uint64(64) - used)
        heads[active] += np.bitwise_count(tosses)
        remaining[active] -= 64
        active = active[remaining[active] > 0]
        word += 1
    return heads


def shuffled(key: np.ndarray, size: int) -> np.ndarray:
    """Return the permutation of range(`size`) that `key`, a uint64 scalar, selects; int64."""
    return np.argsort(bits(key, np.arange(size, dtype=np.uint64)), kind="stable")
