"""Keys of initial values."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax import Array


class _Keys:
    """Returns the same keys as `nnx.Rngs`, which counts them in an array.

    While a function is traced, that count is a tracer, and Flax asks it for its sharding: JAX then
    writes an error message with the operations that made it. Counting in Python, a network is
    defined in half the time.
    """

    def __init__(self, key: Array) -> None:
        """Start with the first key that is derived from `key`."""
        self._key, self._count = key, 0

    def params(self) -> Array:
        """Return the next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


def init_rngs(seed: int | Array) -> nnx.Rngs:
    """Return the keys of initial values, from a seed or a key; modules draw only ``params()``."""
    keys: Any = _Keys(jax.random.key(seed) if isinstance(seed, int) else seed)
    return keys
