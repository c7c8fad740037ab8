"""The processes and devices of a job: join them, find them, agree on an end."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, DeviceUnavailableError, UnreachableError
from bert_jax.runtime.signals import end_at_once, take_over


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
