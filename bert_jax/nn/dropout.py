"""Dropout whose random numbers cost next to nothing.

A mask is a hash of the element's place in the whole batch, so it does not depend on the number of
devices, can be computed again instead of being kept, and comes out the same inside a kernel.
JAX's threefry takes some hundred operations for what ten do here; of these numbers nothing is
asked but that they look unrelated (the multipliers are those of MurmurHash3's finaliser).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.nn.hardware import first_row

_MULTIPLIERS = tuple(np.array([0x85EBCA6B, 0xC2B2AE35], np.uint32).view(np.int32))


def seeds(key: Array) -> Array:
    """int32 [2] from a key: what `kept` mixes in."""
    return jax.lax.bitcast_convert_type(jax.random.bits(key, (2,), jnp.uint32), jnp.int32)


def kept(index: Array, first: Array, second: Array, rate: float) -> Array:
    """Which elements stay; all but a share `rate`.

    Args:
        index: int32: place of each element.
        first: int32 scalar, of `seeds`.
        second: int32 scalar, of `seeds`. Each seed stands between other steps, as a sum alone would
            make one mask the other one moved along.
        rate: In [0, 1).
    """
    # int32 wraps as uint32 does; TPU kernels know no unsigned numbers.
    mixed = (index ^ first) * _MULTIPLIERS[0]
    mixed = mixed ^ jax.lax.shift_right_logical(mixed, np.int32(15))
    mixed = (mixed + second) * _MULTIPLIERS[1]
    mixed = mixed ^ jax.lax.shift_right_logical(mixed, np.int32(13))
    return mixed >= np.int32(round(rate * 2**32) - 2**31)


def places(shape: tuple[int, ...]) -> Array:
    """int32 [*shape]: the number of each element, modulo 2**32.

    Along the first axis are this device's rows of a batch; counted are those of all devices.
    """
    index, stride = jnp.zeros(shape, jnp.int32), 1
    for axis in reversed(range(len(shape))):
        step = np.uint32(stride % 2**32).astype(np.int32)
        number = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        index = index + (number if axis else number + first_row(shape[0])) * step
        stride *= shape[axis]
    return index


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Zeroes a share `rate` of the elements and scales up the others; the identity without key."""
    return x if key is None or rate == 0.0 else dropped(x, rate, seeds(key))


def dropped(x: Array, rate: float, seeds: Array) -> Array:
    """`dropout` with `seeds` in place of a key: the same elements for the same seeds."""
    if rate == 0.0:
        return x
    keep = kept(places(x.shape), seeds[0], seeds[1], rate)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
