"""Checksums and digests of trees of arrays, equal on any mesh."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.nn.tensor_names import named_leaves
from bert_jax.runtime.errors import NotFiniteError


def checksums(tree: Any) -> dict[str, Array]:
    """Return uint32 [2] per array: sums of its bit patterns with odd weights by position.

    They are computed where the array is, whole or in shards: sums of integers do not depend on the
    order, so an array has the same sums on any mesh. With odd weights every single changed bit
    changes the sum.
    """
    return {name: _checksum(array) for name, array in named_leaves(tree)}


def checksums_if_finite(tree: dict[str, Any], step: int) -> dict[str, list[int]]:
    """Return the checksums of the arrays of a state after `step`.

    Raises:
        NotFiniteError: A value is infinite or NaN. An embedding row that no batch looks up can be,
            while every loss is finite.
    """
    sums, nonfinite = examined(tree)
    if nonfinite:
        raise NotFiniteError(f"{nonfinite[0]} is not finite", step)
    return sums


def examined(tree: dict[str, Any]) -> tuple[dict[str, list[int]], list[str]]:
    """Return the checksums of arrays and the names of nonfinite ones, params first."""
    sums, finite = jax.device_get(_examine(tree))
    nonfinite = [name for name, is_finite in finite.items() if not is_finite]
    nonfinite.sort(key=lambda name: (not name.startswith("params/"), name))
    return {name: pair.tolist() for name, pair in sums.items()}, nonfinite


@jax.jit
def _examine(tree: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Array]]:
    return checksums(tree), {n: jnp.isfinite(array).all() for n, array in named_leaves(tree)}


def _checksum(array: Array) -> Array:
    words = jax.lax.bitcast_convert_type(array.reshape(-1), f"uint{8 * array.dtype.itemsize}")
    words = words.astype(jnp.uint32)
    position = jax.lax.iota(jnp.uint32, words.size)
    weights = (2 * position + 1, (position * jnp.uint32(2654435761)) | 1)
    return jnp.stack([jnp.sum(words * weight, dtype=jnp.uint32) for weight in weights])


def digest(params: Any) -> str:
    """Return the SHA-256 of names, shapes, dtypes and values of the parameters."""
    total = hashlib.sha256()
    for name, leaf in named_leaves(params):
        array = np.asarray(leaf)
        total.update(f"{name} {array.shape} {array.dtype}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
