"""What tells two trees of arrays apart, whatever devices they are on."""

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
    """uint32 [2] per array: sums of its bit patterns with odd weights that depend on the place.

    Computed where the array lives, whole or in pieces: sums of integers do not depend on the order,
    so the same array has the same sums on any mesh. An odd weight makes every single changed bit
    change the sum.
    """
    return {name: _checksum(array) for name, array in named_leaves(tree)}


def checksums_if_finite(tree: dict[str, Any], step: int) -> dict[str, list[int]]:
    """The checksums of the arrays of a state after `step`.

    Raises:
        NotFiniteError: A value in one of them is infinite or NaN; an embedding that no batch looks
            up may be, without a loss that tells of it.
    """
    sums, lost = examined(tree)
    if lost:
        raise NotFiniteError(f"{lost[0]} is not finite", step)
    return sums


def examined(tree: dict[str, Any]) -> tuple[dict[str, list[int]], list[str]]:
    """The checksums of a state's arrays, and which are infinite or NaN somewhere, params first."""
    sums, finite = jax.device_get(_examine(tree))
    lost = [name for name, whole in finite.items() if not whole]
    found = sorted(lost, key=lambda name: (not name.startswith("params/"), name))
    return {name: pair.tolist() for name, pair in sums.items()}, found


@jax.jit
def _examine(tree: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Array]]:
    return checksums(tree), {n: jnp.isfinite(array).all() for n, array in named_leaves(tree)}


def _checksum(array: Array) -> Array:
    words = jax.lax.bitcast_convert_type(array.reshape(-1), f"uint{8 * array.dtype.itemsize}")
    words = words.astype(jnp.uint32)
    place = jax.lax.iota(jnp.uint32, words.size)
    weights = (2 * place + 1, (place * jnp.uint32(2654435761)) | 1)
    return jnp.stack([jnp.sum(words * weight, dtype=jnp.uint32) for weight in weights])


def digest(params: Any) -> str:
    """SHA-256 of the parameters: names, shapes, dtypes and values; the same on any mesh."""
    total = hashlib.sha256()
    for name, leaf in named_leaves(params):
        array = np.asarray(leaf)
        total.update(f"{name} {array.shape} {array.dtype}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
