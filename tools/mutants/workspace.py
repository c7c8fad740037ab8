"""A copy of a tree in which faults are inserted and tests run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tools.mutants import events
from tools.mutants.fault import Fault

_POLL = 0.5  # seconds
_TEARDOWN = 60.0  # seconds for the cleanup of an interrupted run
_PLUGIN = "mutants_events"
_QUIET = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-p", _PLUGIN)


@dataclass(frozen=True)
class Run:
    """Result of a pytest run.

    Attributes:
        ending: passed, failed, crashed (pytest itself ended) or hung.
        test: The test that failed, or that ran when pytest crashed or hung.
        output: The end of the output.
    """

    ending: str
    test: str
    output: str

    @property
    def passed(self) -> bool:
        """Return whether no test failed; true if there was none to run."""
        return self.ending == "passed"


class Workspace:
    """One copy of a tree.

    Attributes:
        tree: Root of the copy.
    """

    def __init__(self, source: Path, folder: Path, number: int, python: str, limit: float) -> None:
        """Copy a tree.

        Args:
            source: The tree; files that git ignores are not copied.
            folder: For the copies and the compiled programs that they share.
            number: Number of this copy.
            python: Interpreter with the packages of the tests.
            limit: Seconds without an event after which a run counts as hung.
        """
        self.tree = folder / f"copy-{number}"
        self._base, self._events = folder / f"base-{number}", folder / f"events-{number}"
        self._log = folder / f"log-{number}"
        self._python, self._limit = python, limit
        self._stopped = False
        plugins = folder / "plugins"
        plugins.mkdir(exist_ok=True)
        shutil.copy(events.__file__, plugins / f"{_PLUGIN}.py")
        _copy(source, self.tree)
        paths = (self.tree, self.tree / "tests", plugins)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "JAX_"))}
        self._environment = inherited | {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            events.EVENTS: str(self._events),
        }
        self._check_imports()

    @contextmanager
    def mutated(self, fault: Fault) -> Iterator[None]:
        """Insert a fault; remove it at the end."""
        path = self.tree / fault.file
        original = path.read_text("utf-8")
        _write(path, fault.applied(original))
        try:
            yield
        finally:
            _write(path, original)

    def pytest(self, targets: Sequence[str], options: Sequence[str] = ()) -> Run:
        """Run tests until the first failure.

        Args:
            targets: Test files, which run in this order, or test ids.
            options: Options of pytest.
        """
        self._events.write_text("")
        command = [self._python, "-m", "pytest", *_QUIET, f"--basetemp={self._base}"]
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [*command, *options, *targets],
                cwd=self.tree,
                env=self._environment | {events.FILES: ":".join(targets)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                hung = not self._wait(process)
            finally:
                _end(process)
        output = self._log.read_text("utf-8", "replace")[-2000:]
        failed, last = self._read_events()
        if failed:
            return Run("failed", failed, output)
        if hung:
            return Run("hung", last, output)
        # 5: no test was selected.
        return Run("passed" if process.returncode in (0, 5) else "crashed", last, output)

    def stop(self) -> None:
        """End the current run in another thread, and refuse further runs."""
        self._stopped = True

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the end of a run; return False if there is no event for too long."""
        size, silent = 0, 0.0
        while process.poll() is None:
            if self._stopped:
                raise RuntimeError("stopped")
            time.sleep(_POLL)
            silent += _POLL  # not the clock, which continues while this process is suspended
            if (grown := self._events.stat().st_size) != size:
                size, silent = grown, 0.0
            if silent > self._limit:
                return False
        return True

    def _read_events(self) -> tuple[str, str]:
        """Return the first failed test and the first unfinished one; empty if there is none.

        If all are finished, the last one replaces the second.
        """
        lines = self._events.read_text("utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        failed = next((name for event, name in records if event == "fail"), "")
        started = [name for event, name in records if event == "begin"]
        over = {name for event, name in records if event == "over"}
        return failed, next((name for name in started if name not in over), (started or [""])[-1])

    def _check_imports(self) -> None:
        """Raise an error if the tests would import another copy of the product."""
        code = "import bert_jax, pipelines, tpu; print(bert_jax.__file__)"
        imported = _output([self._python, "-c", code], self.tree, self._environment).strip()
        if not Path(imported).is_relative_to(self.tree):
            raise RuntimeError(f"the tests would import {imported}, not the copy in {self.tree}")


def _copy(source: Path, target: Path) -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, _output(listed, source).split("\0")):
        if (source / name).is_file():  # a deleted file may still be tracked
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)
    # Some tests read the list of tracked files.
    _output(["git", "init", "--quiet"], target)
    _output(["git", "add", "--all"], target)


def _write(path: Path, text: str) -> None:
    """Replace the text of a file; its compiled copies become outdated."""
    later = path.stat().st_mtime + 10
    path.write_text(text, "utf-8")
    os.utime(path, (later, later))


def _output(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    result = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return result.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process group: first with SIGINT, so that fixtures clean up."""
    for number, patience in ((signal.SIGINT, _TEARDOWN), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
