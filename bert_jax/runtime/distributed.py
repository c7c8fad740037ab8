"""The processes and devices of a job: joining, listing, and agreeing to stop."""

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
    """Keep compiled programs on disk, in ``JAX_COMPILATION_CACHE_DIR`` or the user's cache."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "bert-jax" / "xla"))
    # JAX keeps only what took a second to compile. The many small programs of a start are faster to
    # read, too: a command of three seconds spends half a second on them.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


JOIN_TIMEOUT = 300  # seconds to wait for the other processes of a job

# By default, JAX considers a process dead that is silent for 100 seconds; some compilations take
# longer.
_HEARTBEAT_TIMEOUT = 300


def join(heartbeat_timeout: int = _HEARTBEAT_TIMEOUT) -> list[jax.Device]:
    """Join the other processes of a job, if any; return all devices, ordered by process.

    From then on, JAX handles SIGTERM in a job of several processes, and all stop after the same
    step (`stop_agreed`). Other signals are converted to SIGTERM, because a process that ends alone
    makes the others fail. A second signal ends this process.

    JAX detects Cloud TPU VMs and clusters (Slurm, Open MPI, Kubernetes). Elsewhere set
    ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0), ``JAX_NUM_PROCESSES`` and
    ``JAX_PROCESS_ID``.

    Args:
        heartbeat_timeout: Seconds after which a silent process is considered dead.

    Raises:
        BadInputError: The three variables are invalid.
        UnreachableError: Other processes did not join in time, or the address cannot be used.
        DeviceUnavailableError: There is no device, or another process uses it.
    """
    _initialize(heartbeat_timeout)
    if jax.distributed.is_initialized():
        take_over(_request_stop, but=(signal.SIGTERM,))
    all_devices = devices()
    if jax.process_count() == 1:
        take_over(end_at_once)  # JAX took over SIGTERM, but one process never calls `stop_agreed`
    return all_devices


def _initialize(heartbeat_timeout: int) -> None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, *numbers = (os.environ.get(name) for name in names)
    if address:
        say(f"process {numbers[1]} of {numbers[0]}: waiting for the other processes at {address}")
    try:
        count, number = (None if text is None else int(text) for text in numbers)
        if address and number == 0:
            _check_free(address)
        initialize = partial(
            jax.distributed.initialize,
            initialization_timeout=JOIN_TIMEOUT + 60,  # after which JAX would abort this process
            heartbeat_timeout_seconds=heartbeat_timeout,
        )
        # In another thread: the main thread could not handle signals while it waits.
        ThreadPoolExecutor(1).submit(initialize, address, count, number).result(JOIN_TIMEOUT)
    except TimeoutError:
        raise UnreachableError(
            f"the other processes of this job did not join within {JOIN_TIMEOUT} seconds; start all"
            " processes at about the same time, on hosts that can reach the address of process 0"
        ) from None
    except (ValueError, TypeError, OverflowError) as error:
        # JAX reports only in this message that it detected no cluster.
        if "coordinator_address should be defined" in str(error) and numbers == [None, None]:
            return
        settings = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        raise BadInputError(f"{settings}: {error}; correct these variables") from None


def _check_free(address: str) -> None:
    """Reject a port that is in use; JAX 0.10 would crash."""
    try:
        socket.create_server(("", int(address.rpartition(":")[2]))).close()
    except OSError as error:
        raise UnreachableError(
            f"JAX_COORDINATOR_ADDRESS={address}: {os.strerror(error.errno or 0)}; end the process"
            " that uses the port, or choose another port"
        ) from None


def _request_stop(number: int, frame: FrameType | None) -> None:
    say(
        f"{signal.Signals(number).name} received: all processes save and stop after their next step"
        " (send again to quit this process without saving)"
    )
    os.kill(os.getpid(), signal.SIGTERM)
    take_over(end_at_once, but=(signal.SIGTERM,))


def devices() -> list[jax.Device]:
    """Return all devices of the job, ordered by process.

    Raises:
        DeviceUnavailableError: There are none, or another process uses them.
    """
    try:
        unordered = jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion without CUDA's libraries
        reason = (str(error).splitlines() or ["its platform is not installed"])[0]
        raise DeviceUnavailableError(
            f"no device can be opened: {reason}; end the process that uses it,"
            " or set JAX_PLATFORMS=cpu"
        ) from None
    return sorted(unordered, key=lambda device: (device.process_index, device.id))


def any_process(flag: bool) -> bool:
    """Return true if `flag` is true in any process; every process must call this."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def stop_agreed(call: int) -> bool:
    """Return true if all processes stop now because one of several received SIGTERM.

    Every process must call this after every step.

    Args:
        call: Number of this call, the same in every process.
    """
    return multihost_utils.reached_preemption_sync_point(call)
