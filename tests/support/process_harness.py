"""Processes that run one bert-jax command each and can be sent signals.

They are forked from a server that has imported everything, so starting one takes a tenth of a
second instead of three.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from threading import RLock
from typing import Any

from pipelines.help import COMMANDS
from support import compilations, process_events

_POLL = 0.005  # seconds
_TIMEOUT = 240.0  # seconds after which a process counts as stuck

# A forked process inherits these imports.
_COMMANDS = [f"pipelines.commands.{name.replace('-', '_')}" for name in COMMANDS if name != "tpu"]
_CONTEXT = multiprocessing.get_context("forkserver")
# Starting a process polls all others, and only the first of two threads that poll a process gets
# its exit code.
_LOCK = RLock()
_CONTEXT.set_forkserver_preload([*_COMMANDS, "support.process_events"])


@dataclass
class Process:
    """A running or finished process.

    Attributes:
        stdout_file: Receives its standard output.
        stderr_file: Receives its standard error.
        events_file: Receives its events; see `process_events`.
    """

    stdout_file: Path
    stderr_file: Path
    events_file: Path
    _process: Any
    _started: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return int(self._process.pid)

    @property
    def has_ended(self) -> bool:
        """Return whether the process is over."""
        with _LOCK:
            return not self._process.is_alive()

    def wait_for_event(self, event: str, occurrence: int = 1) -> bool:
        """Wait until an event has begun that often; return False if the process ended before."""
        return self.wait_until(
            lambda: len(process_events.starts(self.events_file, event)) >= occurrence
        )

    def wait_until_listening(self) -> bool:
        """Wait until the process handles signals; return False if it ended before."""
        return self.wait_until(lambda: bool(process_events.ends(self.events_file, "listening")))

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; return False if the process ended before."""
        while not self.has_ended:
            if condition():
                return True
            if time.monotonic() - self._started > _TIMEOUT:
                return False
            time.sleep(_POLL)
        return condition()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process is over."""
        if not self.has_ended:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the signal that ended the process.

        Raises:
            TimeoutError: The process did not end and was killed.
        """
        left = self._started + _TIMEOUT - time.monotonic()
        if not connection.wait([self._process.sentinel], max(0, left)):
            self._process.kill()
            connection.wait([self._process.sentinel])
            raise TimeoutError(f"no end within {_TIMEOUT:.0f} s; last line: {self.last_line}")
        with _LOCK:
            return int(self._process.exitcode)

    @property
    def stderr(self) -> str:
        """Return the standard error so far."""
        return self.stderr_file.read_text("utf-8", "replace") if self.stderr_file.exists() else ""

    @property
    def last_line(self) -> str:
        """Return the newest line of standard error."""
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def newest_step(self) -> int:
        """Return the newest update that began; 0 if none did."""
        return process_events.newest_step(self.events_file)


@dataclass(frozen=True)
class Environment:
    """Conditions under which a process runs its command.

    Attributes:
        variables: Environment variables.
        setup: Called in the process before the command; a function of a module, or a partial of it.
        devices: Number of emulated devices.
    """

    variables: dict[str, str] = field(default_factory=dict)
    setup: Callable[[], None] | None = None
    devices: int = 1


NORMAL = Environment()


def xla_flags(variables: Mapping[str, str], devices: int) -> str:
    """Return XLA_FLAGS for a number of emulated devices; XLA uses the last of two equal flags."""
    inherited = variables.get("XLA_FLAGS", "")
    return f"{inherited} --xla_force_host_platform_device_count={devices}".strip()


def start(
    folder: Path,
    *arguments: str | Path,
    environment: Environment = NORMAL,
) -> Process:
    """Start ``bert-jax ARGUMENTS``; its output and events go to files in `folder`."""
    number = len(list(folder.glob("*.log")))
    files = [folder / f"{number:03}.{kind}" for kind in ("out", "log", "events")]
    for file in files[:2]:
        file.touch()
    words = list(map(str, arguments))
    process = _CONTEXT.Process(target=_main, args=(words, files, environment))
    with _LOCK:
        process.start()
    return Process(*files, process)


def run(folder: Path, *arguments: str | Path, **options: Any) -> Process:
    """Run a command to its end; see `start`."""
    process = start(folder, *arguments, **options)
    process.wait()
    return process


def _main(arguments: list[str], files: list[Path], environment: Environment) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in zip((1, 2), files, strict=False):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.environ |= environment.variables
    os.environ["XLA_FLAGS"] = xla_flags(os.environ, environment.devices)
    warnings.simplefilter("error")
    # Raised for a file that cannot be closed on a full disk; Python hides these by default.
    warnings.simplefilter("ignore", ResourceWarning)
    process_events.record(files[2])
    compilations.record()
    if environment.setup is not None:
        environment.setup()
    sys.argv = ["bert-jax", *arguments]
    from pipelines.commands import cli

    try:
        cli.main()
    finally:
        # multiprocessing skips exit functions; JAX disconnects from a job in one of them.
        atexit._run_exitfuncs()
