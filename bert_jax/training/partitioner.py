"""How the pure steps run on many devices and hosts; the only file that names jit, pmap or a mesh.

All parallelism is over the data: every device computes with all parameters on its rows of a batch.
Devices are ordered by process, so a process's rows of the global batch are one block.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.config.run import ParallelConfig
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, DeviceUnavailableError, UnreachableError
from bert_jax.runtime.signals import end_at_once, take_over
from bert_jax.training.batch import Arrays, Shape
from bert_jax.training.state import Params, TrainState
from bert_jax.training.step import DeviceBatch, Steps

COPIES, PARTS = AXES = ("copies", "parts")
_ALL, _ROWS = PartitionSpec(), PartitionSpec(AXES)
# Over how many devices a state is split, at most. By the TPU compiler's figures (benchmarks/
# RESULTS.md) smaller parts are slower to put together, and they do not divide most networks' sizes.
_MOST_PARTS = 16


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, in ``JAX_COMPILATION_CACHE_DIR`` or the user's cache."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "bert-jax" / "xla"))


MEETING = 300  # seconds to wait for the other processes of a job

# JAX takes a process for dead that says nothing for 100 seconds, which some compilations take.
_SILENCE = 300


def join(silence: int = _SILENCE) -> list[jax.Device]:
    """Joins the other processes of a job, where there are any; returns all devices, by process.

    Of several processes JAX notices SIGTERM from then on, and all hear of it after the same step
    (`stop_agreed`). Another signal is passed on as that: who ends alone takes the rest along. The
    next one ends this process.

    Cloud TPU VMs and clusters that JAX knows (Slurm, Open MPI, Kubernetes) are found by JAX.
    Elsewhere a job is described by ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0),
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Args:
        silence: Seconds after which a process that says nothing is taken for dead.

    Raises:
        BadInputError: The three variables do not make sense.
        UnreachableError: The others do not come, or the address cannot be used.
        DeviceUnavailableError: There is no device, or another process holds it.
    """
    _initialize(silence)
    if jax.distributed.is_initialized():
        take_over(_pass_on, but=(signal.SIGTERM,))
    found = devices()
    if jax.process_count() == 1:
        take_over(end_at_once)  # JAX took SIGTERM, which nobody would ask it for
    return found


def _initialize(silence: int) -> None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, *numbers = (os.environ.get(name) for name in names)
    if address:
        say(f"process {numbers[1]} of {numbers[0]}: meeting the others at {address}")
    try:
        count, number = (None if text is None else int(text) for text in numbers)
        if address and number == 0:
            _check_free(address)
        meet = partial(
            jax.distributed.initialize,
            initialization_timeout=MEETING + 60,  # after which JAX would abort this process
            heartbeat_timeout_seconds=silence,
        )
        # In another thread: this one would not hear of a signal while it waits for the others.
        ThreadPoolExecutor(1).submit(meet, address, count, number).result(MEETING)
    except TimeoutError:
        raise UnreachableError(
            f"the other processes of this job did not come within {MEETING} seconds; start all of"
            " them at about the same time, where they can reach the first one's address"
        ) from None
    except (ValueError, TypeError, OverflowError) as error:
        # JAX's own search for a cluster has no public answer but this message.
        if "coordinator_address should be defined" in str(error) and numbers == [None, None]:
            return
        given = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        raise BadInputError(f"{given}: {error}") from None


def _check_free(address: str) -> None:
    """Refuses a port that is taken, on which JAX 0.10 crashes."""
    try:
        socket.create_server(("", int(address.rpartition(":")[2]))).close()
    except OSError as error:
        raise UnreachableError(
            f"JAX_COORDINATOR_ADDRESS={address}: {os.strerror(error.errno or 0)}; end the process"
            " that has the port, or choose another"
        ) from None


def _pass_on(number: int, frame: FrameType | None) -> None:
    say(
        f"{signal.Signals(number).name}: all processes save and stop after their next step;"
        " once more ends this one without saving"
    )
    os.kill(os.getpid(), signal.SIGTERM)
    take_over(end_at_once, but=(signal.SIGTERM,))


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
        shard_state: Whether each device keeps and updates only a part of the parameters and the
            optimiser state (Xu et al. 2020, https://arxiv.org/abs/2004.13336). Parameters are put
            together before each step, and evaluation. Of more than 16 devices every 16 have all.
    """

    devices: Sequence[jax.Device]
    mapping: Literal["jit", "pmap"] = "jit"
    shard_state: bool = False

    @classmethod
    def of(cls, config: ParallelConfig, devices: Sequence[jax.Device]) -> Layout:
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
        """`Steps.train` over the devices: (state, batch) -> (state, metrics); donates the state.

        The state must lie as `shardings` says.
        """
        if self.mapping == "pmap":
            return jax.pmap(
                partial(steps.train, reduce=_over_pmap),
                COPIES,
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
                params = jax.tree.map(_gathered, mine, parts, steps.moved_as(mine))
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
            return jax.pmap(
                evaluate, COPIES, in_axes=(None, 0), out_axes=None, devices=self.devices
            )
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
        divided = [size % self.mesh.shape[PARTS] == 0 for size in leaf.shape]
        if not self.shard_state or True not in divided:
            return _ALL
        return PartitionSpec(*[None] * divided.index(True), PARTS)

    def _per_device(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(len(self.devices), -1, *array.shape[1:])


def _sum_over_devices(tree: Any) -> Any:
    return jax.lax.psum(tree, AXES)


def _over_pmap(tree: Any) -> Any:
    return jax.lax.psum(tree, COPIES)


def _sum_part(gradient: Array, part: PartitionSpec) -> Array:
    """The sum over the devices of this device's part."""
    if part == _ALL:
        return _sum_over_devices(gradient)
    of_group = jax.lax.psum_scatter(gradient, PARTS, scatter_dimension=len(part) - 1, tiled=True)
    # The sum over a single copy would not be left out by XLA.
    return jax.lax.psum(of_group, COPIES) if jax.lax.axis_size(COPIES) > 1 else of_group


def _gathered(mine: Array, part: PartitionSpec, dtype: jnp.dtype) -> Array:
    """The whole parameter, of which each device has a part; it is sent as `dtype`."""
    if part == _ALL:
        return mine
    whole = jax.lax.all_gather(mine.astype(dtype), PARTS, axis=len(part) - 1, tiled=True)
    return whole.astype(mine.dtype)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def stop_agreed(asked: int) -> bool:
    """Whether, because one process of several was told to end, all of them stop now.

    Every process must ask after every step, and count how often it `asked`.
    """
    return multihost_utils.reached_preemption_sync_point(asked)
