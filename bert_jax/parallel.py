"""How the pure steps run on many devices and hosts; the only file that names jit, pmap or a mesh.

All parallelism is over the data: parameters are on every device, the rows of a batch are split.
Devices are ordered by process, so a process's rows of the global batch are one block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.batch import Arrays, Shape
from bert_jax.console import say
from bert_jax.errors import BadInputError, DeviceUnavailableError
from bert_jax.state import TrainState
from bert_jax.steps import DeviceBatch, Steps

AXIS = "data"


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, in ``JAX_COMPILATION_CACHE_DIR`` or the user's cache."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "bert-jax" / "xla"))


def initialize() -> None:
    """Joins the other processes of a job, where there are any.

    Cloud TPU VMs and clusters that JAX knows (Slurm, Open MPI, Kubernetes) are found by JAX.
    Elsewhere a job is described by ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0),
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Raises:
        BadInputError: The three variables do not make sense.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, *numbers = (os.environ.get(name) for name in names)
    if address:
        say(f"process {numbers[1]} of {numbers[0]}: meeting the others at {address}")
    try:
        count, number = (None if text is None else int(text) for text in numbers)
        jax.distributed.initialize(address, count, number)
    except (ValueError, TypeError) as error:
        # JAX's own search for a cluster has no public answer but this message.
        if "coordinator_address should be defined" in str(error) and numbers == [None, None]:
            return
        given = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        raise BadInputError(f"{given}: {error}") from None


def devices() -> list[jax.Device]:
    """All devices of the job, by process.

    Raises:
        DeviceUnavailableError: There are none, or another process holds them.
    """
    try:
        found = jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion without CUDA's libraries
        reason = (str(error).splitlines() or ["its platform is not installed"])[0]
        raise DeviceUnavailableError(
            f"no device can be opened: {reason}; end the process that holds it,"
            " or set JAX_PLATFORMS=cpu"
        ) from None
    return sorted(found, key=lambda device: (device.process_index, device.id))


@dataclass(frozen=True)
class Layout:
    """Devices, and how the step is mapped over them.

    Attributes:
        devices: In the order of the rows of a batch.
        mapping: jit or pmap.
    """

    devices: Sequence[jax.Device]
    mapping: Literal["jit", "pmap"] = "jit"

    def __post_init__(self) -> None:
        """Refuses pmap on several processes.

        Its state would be local to each host there, which Orbax cannot save.
        """
        processes = len({device.process_index for device in self.devices})
        if self.mapping == "pmap" and processes > 1:
            raise BadInputError(
                f"parallel.mapping pmap works on one process, this job has {processes};"
                " use parallel.mapping: jit"
            )

    @cached_property
    def mesh(self) -> Mesh:
        """All devices along one axis."""
        return Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    @property
    def replicated(self) -> NamedSharding:
        """On every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_row(self) -> NamedSharding:
        """Split along the first dimension."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def rows(self, batch_size: int) -> slice:
        """This process's rows of a batch.

        Raises:
            BadInputError: The batch cannot be split evenly.
        """
        count = len(self.devices)
        if batch_size % count:
            raise BadInputError(
                f"a batch of {batch_size} sequences cannot be split over {count} devices;"
                f" use a multiple of {count}"
            )
        mine = [d.process_index == jax.process_index() for d in self.devices]
        first, per_device = mine.index(True), batch_size // count
        return slice(first * per_device, (first + sum(mine)) * per_device)

    def replicate(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """What `make` returns, computed on every device."""
        return jax.jit(make, out_shardings=self.replicated)(*arguments)

    def abstract_state(self, make: Callable[[], Any]) -> Any:
        """Shapes, dtypes and shardings of what `replicate` would give."""
        return self.abstract(jax.eval_shape(make))

    def abstract(self, tree: Any) -> Any:
        """The shapes and dtypes of a tree, with the sharding of what is on every device."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated),
            tree,
        )

    def place(self, arrays: Arrays) -> DeviceBatch:
        """Sends this process's rows to its devices; together they are the global batch."""
        if self.mapping == "pmap":
            arrays = {name: self._per_device(array) for name, array in arrays.items()}
        return {
            name: jax.make_array_from_process_local_data(self.by_row, array)
            for name, array in arrays.items()
        }

    def abstract_batch(self, batch: Shape) -> dict[str, Any]:
        """What `place` gives for a batch of these sizes, as shapes."""
        count = len(self.devices)
        lead = (count, batch.rows // count) if self.mapping == "pmap" else (batch.rows,)
        return {
            name: jax.ShapeDtypeStruct((*lead, *shape[1:]), dtype, sharding=self.by_row)
            for name, (shape, dtype) in batch.fields().items()
        }

    def train_step(self, steps: Steps) -> Any:
        """`Steps.train` over the devices: (state, batch) -> (state, metrics); donates the state."""
        if self.mapping == "jit":
            return jax.jit(
                steps.train,
                donate_argnums=0,
                in_shardings=(self.replicated, self.by_row),
                out_shardings=self.replicated,
            )

        def shard_step(state: TrainState, batch: DeviceBatch) -> Any:
            return steps.train(state, batch, _sum_over_devices, jax.lax.axis_index(AXIS))

        return jax.pmap(
            shard_step,
            AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self.devices,
            donate_argnums=0,
        )

    def eval_step(self, steps: Steps) -> Any:
        """`Steps.evaluate` over the devices: (params, batch) -> sums."""
        if self.mapping == "jit":
            return jax.jit(
                steps.evaluate,
                in_shardings=(self.replicated, self.by_row),
                out_shardings=self.replicated,
            )
        evaluate = partial(steps.evaluate, reduce=_sum_over_devices)
        return jax.pmap(evaluate, AXIS, in_axes=(None, 0), out_axes=None, devices=self.devices)

    def predict_step(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, (params, batch) -> outputs of every row, on all devices; each has all outputs.

        The batch is this process's rows; the mapping is jit, whatever that of training is.
        """
        mapped = jax.jit(
            run, in_shardings=(self.replicated, self.by_row), out_shardings=self.replicated
        )

        def placed(params: Any, arrays: Arrays) -> Any:
            batch = {
                name: jax.make_array_from_process_local_data(self.by_row, array)
                for name, array in arrays.items()
            }
            return mapped(params, batch)

        return placed

    def _per_device(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(len(self.devices), -1, *array.shape[1:])


def _sum_over_devices(tree: Any) -> Any:
    return jax.lax.psum(tree, AXIS)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def stop_agreed(step: int) -> bool:
    """Whether, because one process of several was told to end, all of them stop after `step`.

    Every process must ask after every step.
    """
    return multihost_utils.reached_preemption_sync_point(step)
