"""The form of a state on TPUs: the stored one, with arrays that the chips handle without copies.

* The vocabulary is padded to a multiple of 2048, so that 16 devices can share its rows: 30,522 is
  not even divisible by 8. Shards along the other axis would be 48 columns wide, where a TPU works
  with 128. New rows are 0 and never probable, so they have no gradient and remain as they are.
* The kernels of the attention have the heads side by side, [D, N x H] instead of [D, N, H]: a TPU
  would pad H to 128.

Checkpoints, digests and exports have the stored form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from bert_jax.nn.attention_mask import MASKED_SCORE
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState
from bert_jax.training.step import Steps

_MULTIPLE = 2048  # 16 shards of 128
_PROJECTIONS = ("query", "key", "value", "output")


@dataclass(frozen=True)
class DeviceForm:
    """Maps states between both forms.

    Attributes:
        partitioner: The devices.
        stored: Shapes and dtypes of the stored form.
        differs: States have another form on these devices.
    """

    partitioner: Partitioner
    stored: TrainState
    differs: bool

    @classmethod
    def of(
        cls, partitioner: Partitioner, steps: Steps, init_fn: Callable[[], TrainState]
    ) -> DeviceForm:
        """Return the form for the devices of a run.

        Args:
            partitioner: The devices.
            steps: Of the run. Factors of learning rates fit the stored form only.
            init_fn: Makes the first state.
        """
        jitted = partitioner.mapping == "jit" and steps.lr_scales is None
        return cls(partitioner, jax.eval_shape(init_fn), partitioner.on_tpu and jitted)

    def abstract(self) -> Any:
        """Return shapes, dtypes and shardings on the devices."""
        shapes = jax.eval_shape(on_device, self.stored) if self.differs else self.stored
        return self.partitioner.abstract(shapes)

    def on_device(self, state: TrainState) -> TrainState:
        """Return a stored state as the devices need it."""
        return self._to_device(state) if self.differs else state

    def as_stored(self, state: TrainState) -> TrainState:
        """Return a state as it is saved."""
        return self._to_stored(state) if self.differs else state

    @cached_property
    def _to_device(self) -> Callable[[TrainState], TrainState]:
        shardings = self.partitioner.shardings(jax.eval_shape(on_device, self.stored))
        return jax.jit(on_device, out_shardings=shardings)

    @cached_property
    def _to_stored(self) -> Callable[[TrainState], TrainState]:
        shardings = self.partitioner.shardings(self.stored)
        return jax.jit(partial(as_stored, stored=self.stored), out_shardings=shardings)


def on_device(state: TrainState) -> TrainState:
    """Return a stored state in the form for TPUs."""
    return jax.tree_util.tree_map_with_path(_leaf_on_device, state)


def as_stored(state: TrainState, stored: TrainState) -> TrainState:
    """Undo `on_device`.

    Args:
        state: In the form for TPUs.
        stored: Shapes of the stored form.
    """

    def leaf(x: Array, to: jax.ShapeDtypeStruct) -> Array:
        # Either the heads are apart again, or rows are left out.
        return x.reshape(to.shape) if x.size == to.size else x[: to.shape[0]]

    return jax.tree.map(leaf, state, stored)


def _leaf_on_device(path: tuple[Any, ...], leaf: Array) -> Array:
    # Moments have the names of their parameter, after those of the optimizer's state.
    names = [str(getattr(entry, "key", getattr(entry, "name", ""))) for entry in path]
    if names[-2:] == ["embeddings", "token"]:
        return jnp.pad(leaf, [(0, -len(leaf) % _MULTIPLE), (0, 0)])
    if names[-2:] == ["mlm", "bias"]:
        never = MASKED_SCORE if names[0] == "params" else 0.0
        return jnp.pad(leaf, (0, -len(leaf) % _MULTIPLE), constant_values=never)
    if names[-3:-2] == ["attention"] and names[-2] in _PROJECTIONS:
        if names[-1] == "bias":  # [L, N, H], or [L, D] of the output
            return leaf.reshape(len(leaf), -1)
        L, D = leaf.shape[0], leaf.shape[-1] if names[-2] == "output" else leaf.shape[1]
        shape = (L, -1, D) if names[-2] == "output" else (L, D, -1)
        return leaf.reshape(shape)
    return leaf
