"""Processes that run one command of ours, and are there to be struck.

They are forked from a server that has imported everything: so a process costs a tenth of a second
instead of three, and twenty of them can be afforded.
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

from pipelines.commands.cli import COMMANDS
from support import compilations, process_events

_POLL = 0.005  # seconds
_PATIENCE = 240.0  # seconds after which a process is taken for stuck

# A forked process has what was imported before.
_COMMANDS = [f"pipelines.{name.replace('-', '_')}" for name in COMMANDS if name != "tpu"]
_CONTEXT = multiprocessing.get_context("forkserver")
# To start a process asks about all others, and of two threads that ask about one only the first is
# told how it ended.
_LOCK = RLock()
_CONTEXT.set_forkserver_preload([*_COMMANDS, "support.process_events"])


@dataclass
class Life:
    """A process.

    Attributes:
        out: Takes its standard output.
        log: Takes what it says, which goes to standard error.
        notes: Takes its moments; see `moments`.
    """

    out: Path
    log: Path
    notes: Path
    _process: Any
    _begun: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self._process.pid)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        with _LOCK:
            return not self._process.is_alive()

    def reaches(self, moment: str, occurrence: int = 1) -> bool:
        """Waits until a moment began that often; False if the process ended before."""
        return self.waits(lambda: len(process_events.begins(self.notes, moment)) >= occurrence)

    def listens(self) -> bool:
        """Waits until it heeds signals; False if it ended before."""
        return self.waits(lambda: bool(process_events.ends(self.notes, "listening")))

    def waits(self, for_it: Callable[[], bool]) -> bool:
        """Waits until something is so; False if the process ended before."""
        while not self.ended:
            if for_it():
                return True
            if time.monotonic() - self._begun > _PATIENCE:
                return False
            time.sleep(_POLL)
        return for_it()

    def strike(self, number: int) -> None:
        """Sends a signal, unless the process is over."""
        if not self.ended:
            os.kill(self.pid, number)

    def end(self) -> int:
        """Waits for its end; its exit code, or minus the signal that ended it.

        Raises:
            TimeoutError: It does not end; it is killed.
        """
        left = self._begun + _PATIENCE - time.monotonic()
        if not connection.wait([self._process.sentinel], max(0, left)):
            self._process.kill()
            connection.wait([self._process.sentinel])
            raise TimeoutError(
                f"it did not end within {_PATIENCE:.0f} s; it said: {self.last_line}"
            )
        with _LOCK:
            return int(self._process.exitcode)

    @property
    def said(self) -> str:
        """Everything it said."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    @property
    def last_line(self) -> str:
        """The newest line that it said."""
        lines = self.said.strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def steps(self) -> int:
        """Updates that it did or knew of; 0 if none."""
        return process_events.newest_step(self.notes)


@dataclass(frozen=True)
class Circumstances:
    """What a process lives under.

    Attributes:
        variables: Of its environment.
        before: Called in the process before the command; to be found by name in a module.
        devices: Emulated.
    """

    variables: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    devices: int = 1


def flags(environment: Mapping[str, str], devices: int) -> str:
    """For XLA in a process with so many emulated devices; of two it takes the last."""
    known = environment.get("XLA_FLAGS", "")
    return f"{known} --xla_force_host_platform_device_count={devices}".strip()


def start(
    folder: Path,
    *arguments: str | Path,
    under: Circumstances = Circumstances(),
) -> Life:
    """Starts ``bert-jax ARGUMENTS``; its log and notes come into `folder`."""
    number = len(list(folder.glob("*.log")))
    files = [folder / f"{number:03}.{kind}" for kind in ("out", "log", "notes")]
    for file in files[:2]:
        file.touch()
    process = _CONTEXT.Process(target=_live, args=(list(map(str, arguments)), files, under))
    with _LOCK:
        process.start()
    return Life(*files, process)


def run(folder: Path, *arguments: str | Path, **options: Any) -> Life:
    """The same, to its end."""
    life = start(folder, *arguments, **options)
    life.end()
    return life


def _live(arguments: list[str], files: list[Path], under: Circumstances) -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in zip((1, 2), files, strict=False):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.environ |= under.variables
    os.environ["XLA_FLAGS"] = flags(os.environ, under.devices)
    warnings.simplefilter("error")
    # A file that cannot be closed on a full disk; nobody is shown these unless he asks.
    warnings.simplefilter("ignore", ResourceWarning)
    process_events.announce(files[2])
    compilations.record()
    if under.before is not None:
        under.before()
    sys.argv = ["bert-jax", *arguments]
    from pipelines.commands import cli

    try:
        cli.main()
    finally:
        # multiprocessing leaves them out; in them JAX parts from the other processes of a job.
        atexit._run_exitfuncs()
