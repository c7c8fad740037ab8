"""Devices and rows of the step that is being traced.

Both functions read the mesh of the trace because the mapping that sets it (`partitioner`) already
fixes the devices; an argument through all modules, `define` and its callers could only contradict
it. `jax.lax.platform_dependent` is resolved after tracing and by platform alone: too late to unroll
a scan, and blind to the type of a TPU, which decides about the attention kernel.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def device_kind() -> str:
    """Return the `jax.Device.device_kind` of the mapped devices, or else of the default device.

    The devices may be absent: a program can be compiled ahead of time.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


def first_row(rows: int) -> Array:
    """Return the index of this device's first row in the global batch, an int32 scalar.

    Args:
        rows: Rows on each device.
    """
    axes = jax.sharding.get_abstract_mesh().manual_axes
    if not axes:
        return jnp.zeros((), jnp.int32)
    return jax.lax.axis_index(axes) * jnp.int32(rows)
