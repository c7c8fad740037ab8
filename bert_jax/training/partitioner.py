"""Map the pure steps over devices and hosts; only this file decides on pmap, meshes and shardings.

All parallelism is over the data: every device computes with all parameters on its rows of a batch.
Devices are ordered by process, so a process's rows of the global batch are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.config.run import ParallelConfig
from bert_jax.nn.encoder import Params
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.batch import Arrays, Shapes
from bert_jax.training.layers_apart import apart, exchanged
from bert_jax.training.state import TrainState
from bert_jax.training.step import DeviceBatch, Steps

# Parameters are sharded along "fsdp" but all-gathered once per step, not per layer: peak memory has
# all of them.
DATA, FSDP = AXES = ("data", "fsdp")
_ALL, _ROWS = PartitionSpec(), PartitionSpec(AXES)
# Largest number of shards of a state. By the TPU compiler's figures (benchmarks/RESULTS.md) smaller
# shards are slower to gather, and larger numbers do not divide most networks' sizes.
_MAX_SHARDS = 16


@dataclass(frozen=True)
class Partitioner:
    """Devices and the mapping of the step over them.

    Attributes:
        devices: In the order of the rows of a batch.
        mapping: jit (over a shard_map) or pmap.
        shard_state: Keep and update only a shard of the parameters and of the optimizer state on
            each device (Xu et al. 2020, https://arxiv.org/abs/2004.13336). Parameters are
            all-gathered before each step and evaluation. Beyond 16 devices, each group of 16 holds
            a full copy.
    """

    devices: Sequence[jax.Device]
    mapping: Literal["jit", "pmap"] = "jit"
    shard_state: bool = False

    @classmethod
    def of(cls, config: ParallelConfig, devices: Sequence[jax.Device]) -> Partitioner:
        """Build the partitioner of a config."""
        return cls(devices, config.mapping, config.shard_state)

    def __post_init__(self) -> None:
        """Reject pmap with several processes or a sharded state.

        Orbax cannot save a state that is local to each host.
        """
        if self.mapping == "pmap" and self.shard_state:
            raise BadInputError(
                "parallel.shard_state needs parallel.mapping: jit; pmap keeps the whole state"
                " on every device"
            )
        processes = len({device.process_index for device in self.devices})
        if self.mapping == "pmap" and processes > 1:
            raise BadInputError(
                f"parallel.mapping pmap works on one process, this job has {processes};"
                " use parallel.mapping: jit"
            )

    @cached_property
    def mesh(self) -> Mesh:
        """All devices in order, in groups that hold a copy of the state each."""
        shards = max(n for n in range(1, _MAX_SHARDS + 1) if len(self.devices) % n == 0)
        groups = np.array(self.devices).reshape(-1, shards if self.shard_state else 1)
        return Mesh(groups, AXES, axis_types=(AxisType.Auto,) * 2)

    @property
    def on_tpu(self) -> bool:
        """Whether the devices are TPUs; they may be absent, for a program compiled ahead."""
        return self.devices[0].platform == "tpu"

    @property
    def replicated(self) -> NamedSharding:
        """A full copy on every device."""
        return NamedSharding(self.mesh, _ALL)

    @property
    def by_row(self) -> NamedSharding:
        """Shards of the first dimension on all devices."""
        return NamedSharding(self.mesh, _ROWS)

    def rows(self, batch_size: int, parts: int = 1) -> slice:
        """Return this process's rows of a batch that runs in `parts`, one after the other.

        Raises:
            BadInputError: The batch cannot be split evenly.
        """
        count = len(self.devices)
        if batch_size % (count * parts):
            times = f" x {parts} parts (train.accumulate)" * (parts > 1)
            raise BadInputError(
                f"a batch of {batch_size} sequences cannot be split over {count} devices{times};"
                f" use a multiple of {count * parts}"
            )
        mine = [d.process_index == jax.process_index() for d in self.devices]
        first, per_device = mine.index(True), batch_size // count
        return slice(first * per_device, (first + sum(mine)) * per_device)

    def build(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """Compute what `make` returns, sharded by `shardings`."""
        shapes = jax.eval_shape(make, *arguments)
        return jax.jit(make, out_shardings=self.shardings(shapes))(*arguments)

    def abstract_state(self, make: Callable[[], Any]) -> Any:
        """Return the shapes, dtypes and shardings of what `build` would return."""
        return self.abstract(jax.eval_shape(make))

    def abstract(self, tree: Any) -> Any:
        """Return the shapes and dtypes of a tree, with its shardings."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.shardings(tree),
        )

    def shardings(self, tree: Any) -> Any:
        """Return the sharding of each array: replicated, except for a sharded state."""
        if isinstance(tree, TrainState):
            return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf)), tree)
        return jax.tree.map(lambda _: self.replicated, tree)

    def shard_batch(self, arrays: Arrays) -> DeviceBatch:
        """Send this process's rows to its devices as a part of the global batch."""
        if self.mapping == "pmap":
            count = len(self.devices)
            arrays = {
                name: array.reshape(count, -1, *array.shape[1:]) for name, array in arrays.items()
            }
        return {
            name: jax.make_array_from_process_local_data(self.by_row, array)
            for name, array in arrays.items()
        }

    def abstract_batch(self, shapes: Shapes) -> dict[str, Any]:
        """Return the shapes and shardings of `shard_batch` for a global batch of these arrays."""
        count, pmap = len(self.devices), self.mapping == "pmap"
        return {
            name: jax.ShapeDtypeStruct(
                (count, rows // count, *rest) if pmap else (rows, *rest),
                dtype,
                sharding=self.by_row,
            )
            for name, ((rows, *rest), dtype) in shapes.items()
        }

    def train_step(self, steps: Steps) -> Any:
        """Map `Steps.train` over the devices: (state, batch) -> (state, metrics).

        It donates the state, which must be sharded by `shardings`.
        """
        if self.mapping == "pmap":
            return jax.pmap(
                partial(steps.train, reduce=_over_pmap),
                DATA,
                in_axes=(None, 0),
                out_axes=None,
                devices=self.devices,
                donate_argnums=0,
            )

        def train(state: TrainState, batch: DeviceBatch) -> Any:
            # Each device computes on its rows, and all communication is written here: left to
            # itself XLA moves activations as well where the state is sharded.
            specs = jax.tree.map(self._spec, state.params)

            def on_device(shards: Params, step: Array, batch: DeviceBatch) -> Any:
                dtypes = steps.param_gather_dtype(shards)
                params = jax.tree.map(_all_gather, shards, specs, dtypes)
                layers = apart(params, specs)
                gradients, sums = steps.gradients(layers, step, batch, _sum_over_devices)
                return exchanged(gradients, specs, _reduce_scatter), _sum_over_devices(sums)

            gradients, sums = self._mapped(on_device, (specs, _ALL, _ROWS), (specs, _ALL))(
                state.params, state.step, batch
            )
            new, metrics = steps.update(state, gradients, sums)
            return jax.lax.with_sharding_constraint(new, self.shardings(new)), metrics

        return jax.jit(train, donate_argnums=0)

    def skip_step(self, state: TrainState) -> TrainState:
        """Return the state after a step without an update: only the count grows."""
        return replace(state, step=self._next(state.step))

    @cached_property
    def _next(self) -> Callable[[Array], Array]:
        # On the devices: a number sent there in every skipped step would be a transfer.
        return jax.jit(lambda step: step + 1, out_shardings=self.replicated)

    def eval_step(self, steps: Steps) -> Any:
        """Map `Steps.evaluate` over the devices: (params, batch) -> sums."""
        if self.mapping == "pmap":
            evaluate = partial(steps.evaluate, reduce=_over_pmap)
            return jax.pmap(evaluate, DATA, in_axes=(None, 0), out_axes=None, devices=self.devices)
        evaluate = partial(steps.evaluate, reduce=_sum_over_devices)
        return jax.jit(self._mapped(evaluate, (_ALL, _ROWS), _ALL))

    def predict_step(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Map `run`, (params, batch) -> outputs by row, over the devices; replicates the outputs.

        The batch has this process's rows; the mapping is jit, whatever that of training is.
        """
        mapped = jax.jit(self._mapped(run, (_ALL, _ROWS), _ROWS), out_shardings=self.replicated)

        def predict(params: Any, arrays: Arrays) -> Any:
            batch = {
                name: jax.make_array_from_process_local_data(self.by_row, array)
                for name, array in arrays.items()
            }
            return mapped(params, batch)

        return predict

    def _mapped(self, run: Callable[..., Any], inputs: Any, outputs: Any) -> Callable[..., Any]:
        """Run `run` on every device's own shard of the arguments."""
        return jax.shard_map(
            run, mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False
        )

    def _spec(self, leaf: Any) -> PartitionSpec:
        """Return the sharding of a parameter, its gradient and its optimizer state.

        Along the first axis that divides; without such an axis every device has all of it.
        """
        divides = [size % self.mesh.shape[FSDP] == 0 for size in leaf.shape]
        if not self.shard_state or True not in divides:
            return _ALL
        return PartitionSpec(*[None] * divides.index(True), FSDP)


def _sum_over_devices(tree: Any) -> Any:
    return jax.lax.psum(tree, AXES)


def _over_pmap(tree: Any) -> Any:
    return jax.lax.psum(tree, DATA)


def _reduce_scatter(gradient: Array, spec: PartitionSpec) -> Array:
    """Return this device's shard of the sum over all devices."""
    if spec == _ALL:
        return _sum_over_devices(gradient)
    of_group = jax.lax.psum_scatter(gradient, FSDP, scatter_dimension=len(spec) - 1, tiled=True)
    # XLA would not leave out a sum over one group.
    return jax.lax.psum(of_group, DATA) if jax.lax.axis_size(DATA) > 1 else of_group


def _all_gather(shard: Array, spec: PartitionSpec, dtype: jnp.dtype) -> Array:
    """Return the whole parameter from the shards of all devices, which are sent as `dtype`."""
    if spec == _ALL:
        return shard
    whole = jax.lax.all_gather(shard.astype(dtype), FSDP, axis=len(spec) - 1, tiled=True)
    return whole.astype(shard.dtype)
