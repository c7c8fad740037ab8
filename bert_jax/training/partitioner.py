"""How the pure steps run on many devices and hosts; the only file that names jit, pmap or a mesh.

All parallelism is over the data: every device computes with all parameters on its rows of a batch.
Devices are ordered by process, so a process's rows of the global batch are one block.
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
from bert_jax.training.batch import Arrays, Shape
from bert_jax.training.state import TrainState
from bert_jax.training.step import DeviceBatch, Steps

DATA, FSDP = AXES = ("copies", "parts")
_ALL, _ROWS = PartitionSpec(), PartitionSpec(AXES)
# Over how many devices a state is split, at most. By the TPU compiler's figures (benchmarks/
# RESULTS.md) smaller parts are slower to put together, and they do not divide most networks' sizes.
_MOST_PARTS = 16


@dataclass(frozen=True)
class Partitioner:
    """Devices, and how the step is mapped over them.

    Attributes:
        devices: In the order of the rows of a batch.
        mapping: jit or pmap.
        shard_state: Whether each device keeps and updates only a part of the parameters and the
            optimiser state (Xu et al. 2020, https://arxiv.org/abs/2004.13336). Parameters are put
            together before each step, and evaluation. Of more than 16 devices every 16 have all.
    """

    devices: Sequence[jax.Device]
    mapping: Literal["jit", "pmap"] = "jit"
    shard_state: bool = False

    @classmethod
    def of(cls, config: ParallelConfig, devices: Sequence[jax.Device]) -> Partitioner:
        """As a config asks for."""
        return cls(devices, config.mapping, config.shard_state)

    def __post_init__(self) -> None:
        """Refuses pmap on several processes, and with a split state.

        Its state would be local to each host there, which Orbax cannot save.
        """
        if self.mapping == "pmap" and self.shard_state:
            raise BadInputError(
                "parallel.shard_state needs parallel.mapping: jit; pmap has the whole state on"
                " every device"
            )
        processes = len({device.process_index for device in self.devices})
        if self.mapping == "pmap" and processes > 1:
            raise BadInputError(
                f"parallel.mapping pmap works on one process, this job has {processes};"
                " use parallel.mapping: jit"
            )

    @cached_property
    def mesh(self) -> Mesh:
        """All devices in order, in groups that have a copy of the state each."""
        parts = max(n for n in range(1, _MOST_PARTS + 1) if len(self.devices) % n == 0)
        groups = np.array(self.devices).reshape(-1, parts if self.shard_state else 1)
        return Mesh(groups, AXES, axis_types=(AxisType.Auto,) * 2)

    @property
    def replicated(self) -> NamedSharding:
        """On every device."""
        return NamedSharding(self.mesh, _ALL)

    @property
    def by_row(self) -> NamedSharding:
        """Split along the first dimension."""
        return NamedSharding(self.mesh, _ROWS)

    def rows(self, batch_size: int, parts: int = 1) -> slice:
        """This process's rows of a batch that runs in so many `parts`.

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
        """What `make` returns, computed where `shardings` puts it."""
        shapes = jax.eval_shape(make, *arguments)
        return jax.jit(make, out_shardings=self.shardings(shapes))(*arguments)

    def abstract_state(self, make: Callable[[], Any]) -> Any:
        """Shapes, dtypes and shardings of what `build` would give."""
        return self.abstract(jax.eval_shape(make))

    def abstract(self, tree: Any) -> Any:
        """The shapes and dtypes of a tree, with the shardings of `shardings`."""
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            tree,
            self.shardings(tree),
        )

    def shardings(self, tree: Any) -> Any:
        """Where the arrays of a tree are: on every device, but for a state that is split."""
        if isinstance(tree, TrainState):
            return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._part(leaf)), tree)
        return jax.tree.map(lambda _: self.replicated, tree)

    def shard_batch(self, arrays: Arrays) -> DeviceBatch:
        """Sends this process's rows to its devices; together they are the global batch."""
        if self.mapping == "pmap":
            arrays = {name: self._per_device(array) for name, array in arrays.items()}
        return {
            name: jax.make_array_from_process_local_data(self.by_row, array)
            for name, array in arrays.items()
        }

    def abstract_batch(self, batch: Shape) -> dict[str, Any]:
        """What `shard_batch` gives for a batch of these sizes, as shapes."""
        count = len(self.devices)
        lead = (count, batch.rows // count) if self.mapping == "pmap" else (batch.rows,)
        return {
            name: jax.ShapeDtypeStruct((*lead, *shape[1:]), dtype, sharding=self.by_row)
            for name, (shape, dtype) in batch.fields().items()
        }

    def train_step(self, steps: Steps) -> Any:
        """`Steps.train` over the devices: (state, batch) -> (state, metrics); donates the state.

        The state must lie as `shardings` says.
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
            # Each device computes on its rows, and what they exchange is written down here: left to
            # itself XLA moves activations as well where the state is split.
            parts = jax.tree.map(self._part, state.params)

            def local(mine: Params, step: Array, batch: DeviceBatch) -> Any:
                params = jax.tree.map(_gathered, mine, parts, steps.param_gather_dtype(mine))
                gradients, found = steps.gradients(params, step, batch, _sum_over_devices)
                return jax.tree.map(_sum_part, gradients, parts), _sum_over_devices(found)

            gradients, found = self._mapped(local, (parts, _ALL, _ROWS), (parts, _ALL))(
                state.params, state.step, batch
            )
            new, metrics = steps.update(state, gradients, found)
            return jax.lax.with_sharding_constraint(new, self.shardings(new)), metrics

        return jax.jit(train, donate_argnums=0)

    def skip_step(self, state: TrainState) -> TrainState:
        """The state after a step without an update: nothing but their count goes on."""
        return replace(state, step=self._next(state.step))

    @cached_property
    def _next(self) -> Callable[[Array], Array]:
        # On the devices: a number sent there in every skipped step would be a transfer.
        return jax.jit(lambda step: step + 1, out_shardings=self.replicated)

    def eval_step(self, steps: Steps) -> Any:
        """`Steps.evaluate` over the devices: (params, batch) -> sums."""
        if self.mapping == "pmap":
            evaluate = partial(steps.evaluate, reduce=_over_pmap)
            return jax.pmap(evaluate, DATA, in_axes=(None, 0), out_axes=None, devices=self.devices)
        evaluate = partial(steps.evaluate, reduce=_sum_over_devices)
        return jax.jit(self._mapped(evaluate, (_ALL, _ROWS), _ALL))

    def predict_step(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, (params, batch) -> outputs of every row, on all devices; each has all outputs.

        The batch is this process's rows; the mapping is jit, whatever that of training is.
        """
        mapped = jax.jit(self._mapped(run, (_ALL, _ROWS), _ROWS), out_shardings=self.replicated)

        def placed(params: Any, arrays: Arrays) -> Any:
            batch = {
                name: jax.make_array_from_process_local_data(self.by_row, array)
                for name, array in arrays.items()
            }
            return mapped(params, batch)

        return placed

    def _mapped(self, run: Callable[..., Any], inputs: Any, outputs: Any) -> Callable[..., Any]:
        """`run` on every device's own part of the arguments."""
        return jax.shard_map(
            run, mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False
        )

    def _part(self, leaf: Any) -> PartitionSpec:
        """Which part of a parameter, its gradient and its optimiser state a device has.

        Along the first dimension that can be split; all of it if there is none.
        """
        divided = [size % self.mesh.shape[FSDP] == 0 for size in leaf.shape]
        if not self.shard_state or True not in divided:
            return _ALL
        return PartitionSpec(*[None] * divided.index(True), FSDP)

    def _per_device(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(len(self.devices), -1, *array.shape[1:])


def _sum_over_devices(tree: Any) -> Any:
    return jax.lax.psum(tree, AXES)


def _over_pmap(tree: Any) -> Any:
    return jax.lax.psum(tree, DATA)


def _sum_part(gradient: Array, part: PartitionSpec) -> Array:
    """The sum over the devices of this device's part."""
    if part == _ALL:
        return _sum_over_devices(gradient)
    of_group = jax.lax.psum_scatter(gradient, FSDP, scatter_dimension=len(part) - 1, tiled=True)
    # The sum over a single copy would not be left out by XLA.
    return jax.lax.psum(of_group, DATA) if jax.lax.axis_size(DATA) > 1 else of_group


def _gathered(mine: Array, part: PartitionSpec, dtype: jnp.dtype) -> Array:
    """The whole parameter, of which each device has a part; it is sent as `dtype`."""
    if part == _ALL:
        return mine
    whole = jax.lax.all_gather(mine.astype(dtype), FSDP, axis=len(part) - 1, tiled=True)
    return whole.astype(mine.dtype)
