"""Processes that run one command of ours, and are there to be struck.

They are forked from a server that has imported everything: so a process costs a tenth of a second
instead of three, and twenty of them can be afforded.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drill import moments

_POLL = 0.001  # seconds
_PATIENCE = 240.0  # seconds after which a process is taken for stuck

# A forked process has what was imported before.
_IMPORTED = ["pipelines.cli", "pipelines.pretrain", "pipelines.prepare", "pipelines.train_tokenizer",
             "pipelines.inspect", "drill.moments"]  # fmt: skip
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_IMPORTED)


@dataclass
class Life:
    """A process.

    Attributes:
        pid: Of it.
        log: Takes what it says.
        notes: Takes its moments; see `moments`.
    """

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
        return not self._process.is_alive()

    def reaches(self, moment: str, occurrence: int = 1) -> bool:
        """Waits until a moment began that often; False if the process ended before."""
        return self.waits(lambda: len(moments.begins(self.notes, moment)) >= occurrence)

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
        self._process.join(max(0.0, self._begun + _PATIENCE - time.monotonic()))
        if not self.ended:
            self._process.kill()
            self._process.join()
            raise TimeoutError(
                f"it did not end within {_PATIENCE:.0f} s; it said: {self.last_line}"
            )
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
        return moments.newest_step(self.notes)


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


def start(
    folder: Path,
    *arguments: str | Path,
    under: Circumstances = Circumstances(),  # noqa: B008
) -> Life:
    """Starts ``bert-jax ARGUMENTS``; its log and notes come into `folder`."""
    number = len(list(folder.glob("*.log")))
    log, notes = folder / f"{number:03}.log", folder / f"{number:03}.notes"
    log.touch()
    process = _CONTEXT.Process(target=_live, args=(list(map(str, arguments)), log, notes, under))
    process.start()
    return Life(log, notes, process)


def run(folder: Path, *arguments: str | Path, **options: Any) -> Life:
    """The same, to its end."""
    life = start(folder, *arguments, **options)
    life.end()
    return life


def _live(arguments: list[str], log: Path, notes: Path, under: Circumstances) -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(out, number)
    flags = f"--xla_force_host_platform_device_count={under.devices}"
    os.environ |= {"XLA_FLAGS": flags, **under.variables}
    warnings.simplefilter("error")
    moments.announce(notes)
    if under.before is not None:
        under.before()
    sys.argv = ["bert-jax", *arguments]
    from pipelines import cli

    cli.main()
