"""Dropout with nearly free random numbers.

A mask is a hash of each element's index in the global batch. It is therefore the same on any number
of devices and inside a kernel, and the backward pass can recompute it instead of storing it. JAX's
threefry takes some hundred operations where this hash takes ten; dropout only needs the bits to
look uncorrelated (the multipliers are those of MurmurHash3's finalizer).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.nn.device_context import first_row

_MULTIPLIERS = tuple(np.array([0x85EBCA6B, 0xC2B2AE35], np.uint32).view(np.int32))


def seeds(key: Array) -> Array:
    """Return the two seeds of `keep_mask`, int32 [2], from a key."""
    return jax.lax.bitcast_convert_type(jax.random.bits(key, (2,), jnp.uint32), jnp.int32)


def keep_mask(index: Array, first: Array, second: Array, rate: float) -> Array:
    """Return which elements are kept: all but about a fraction `rate`.

    Args:
        index: int32 index of each element.
        first: int32 scalar, of `seeds`.
        second: int32 scalar, of `seeds`. The seeds enter at different steps: added at the same
            step, they would make one mask a shifted copy of another.
        rate: In [0, 1).
    """
    # int32 wraps as uint32 does; TPU kernels have no unsigned numbers.
    mixed = (index ^ first) * _MULTIPLIERS[0]
    mixed = mixed ^ jax.lax.shift_right_logical(mixed, np.int32(15))
    mixed = (mixed + second) * _MULTIPLIERS[1]
    mixed = mixed ^ jax.lax.shift_right_logical(mixed, np.int32(13))
    return mixed >= np.int32(round(rate * 2**32) - 2**31)


def element_index(shape: tuple[int, ...]) -> Array:
    """Return the index of each element in the global batch, modulo 2**32: int32 [*shape].

    The first axis has this device's rows; the index counts the rows of all devices.
    """
    index, stride = jnp.zeros(shape, jnp.int32), 1
    for axis in reversed(range(len(shape))):
        step = np.uint32(stride % 2**32).astype(np.int32)
        number = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        index = index + (number if axis else number + first_row(shape[0])) * step
        stride *= shape[axis]
    return index


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Zero a fraction `rate` of the elements and scale up the others; without a key return `x`."""
    return x if key is None or rate == 0.0 else seeded_dropout(x, rate, seeds(key))


def seeded_dropout(x: Array, rate: float, seeds: Array) -> Array:
    """Apply `dropout` with `seeds` instead of a key; the same seeds drop the same elements."""
    if rate == 0.0:
        return x
    keep = keep_mask(element_index(x.shape), seeds[0], seeds[1], rate)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
