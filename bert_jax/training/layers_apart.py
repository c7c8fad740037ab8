"""The layers of a stack as separate arrays, for gradients that are exchanged between devices.

A gradient with a leading axis L is concatenated from those of the layers before the exchange, and
cut again into the devices' shards: on TPUs, two copies of all gradients. Apart, every layer's
gradient is exchanged as it is, and only the shards are stacked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec


def apart(params: Any, specs: Any) -> Any:
    """Replace every array [L, …] of a stack of layers by a tuple of L arrays.

    Args:
        params: Whole parameters on a device.
        specs: How their gradients are sharded; an array that is sharded along L stays whole.
    """

    def of_layers(path: tuple[Any, ...], leaf: Array, spec: PartitionSpec) -> Any:
        stacked = any(getattr(entry, "key", None) == "layers" for entry in path)
        return leaf if not stacked or any(spec[:1]) else tuple(leaf)

    return jax.tree_util.tree_map_with_path(of_layers, params, specs)


def together(params: Any) -> Any:
    """Undo `apart`; XLA does not copy a stack of which only layers are used."""
    return jax.tree.map(
        lambda leaf: jnp.stack(leaf) if isinstance(leaf, tuple) else leaf,
        params,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def exchanged(gradients: Any, specs: Any, exchange: Callable[[Array, PartitionSpec], Array]) -> Any:
    """Exchange gradients of `apart` and stack the results.

    Args:
        gradients: Of the parameters from `apart`.
        specs: How the stacked ones are sharded.
        exchange: Maps an array and its sharding to this device's shard of the sum.
    """

    def of_leaf(gradient: Array | tuple[Array, ...], spec: PartitionSpec) -> Array:
        if not isinstance(gradient, tuple):
            return exchange(gradient, spec)
        return jnp.stack([exchange(of_layer, PartitionSpec(*spec[1:])) for of_layer in gradient])

    return jax.tree.map(of_leaf, gradients, specs, is_leaf=lambda leaf: isinstance(leaf, tuple))
