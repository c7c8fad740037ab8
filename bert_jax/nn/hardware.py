"""For which devices a program is being written; asked while a step is traced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def device_kind() -> str:
    """As `jax.Device.device_kind`: of the devices that a step is mapped over, else of the default.

    They need not be there, when a program is compiled ahead of time.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


def first_row(rows: int) -> Array:
    """int32 scalar: which row of the whole batch is the first of this device's `rows`."""
    axes = jax.sharding.get_abstract_mesh().manual_axes
    if not axes:
        return jnp.zeros((), jnp.int32)
    return jax.lax.axis_index(axes) * jnp.int32(rows)
