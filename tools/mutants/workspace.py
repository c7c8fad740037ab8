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

_LOOK = 0.5  # seconds between looks at a run
_TEARDOWN = 60.0  # seconds in which an interrupted run must clean up
_PLUGIN = "mutants_events"
_QUIET = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-p", _PLUGIN)


@dataclass(frozen=True)
class Run:
    """What came of a call of pytest.

    Attributes:
        ending: passed, failed, crashed (pytest itself ended) or hung.
        test: That failed, or was running when pytest crashed or hung.
        said: The end of the output.
    """

    ending: str
    test: str
    said: str

    @property
    def passed(self) -> bool:
        """Whether no test failed; also where there was none to run."""
        return self.ending == "passed"


class Workspace:
    """One copy.

    Attributes:
        tree: Root of the copy.
    """

    def __init__(self, source: Path, folder: Path, number: int, python: str, limit: float) -> None:
        """Copy a tree.

        Args:
            source: The tree; files that git ignores are left out.
            folder: For the copy and the compiled programs, which all copies share.
            number: Of this copy.
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
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "JAX_"))}
        self._environment = kept | {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            events.EVENTS: str(self._events),
        }
        self._check_imports()

    @contextmanager
    def mutated(self, fault: Fault) -> Iterator[None]:
        """Insert a fault, and remove it in the end."""
        path = self.tree / fault.file
        before = path.read_text("utf-8")
        _write(path, fault.applied(before))
        try:
            yield
        finally:
            _write(path, before)

    def pytest(self, targets: Sequence[str], options: Sequence[str] = ()) -> Run:
        """Run tests until the first failure.

        Args:
            targets: Test files, which are run in this order, or ids of tests.
            options: Of pytest.
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
                hung = not self._ends(process)
            finally:
                _end(process)
        said = self._log.read_text("utf-8", "replace")[-2000:]
        failed, last = self._happened()
        if failed:
            return Run("failed", failed, said)
        if hung:
            return Run("hung", last, said)
        # 5: no test was selected.
        return Run("passed" if process.returncode in (0, 5) else "crashed", last, said)

    def stop(self) -> None:
        """End the run that goes on in another thread, if any, and all that come after it."""
        self._stopped = True

    def _ends(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the end of a run; False if nothing has happened for too long."""
        size, silent = 0, 0.0
        while process.poll() is None:
            if self._stopped:
                raise RuntimeError("told to stop")
            time.sleep(_LOOK)
            silent += _LOOK  # not by the clock, which goes on while all of this is suspended
            if (grown := self._events.stat().st_size) != size:
                size, silent = grown, 0.0
            if silent > self._limit:
                return False
        return True

    def _happened(self) -> tuple[str, str]:
        """Return the first test that failed and the first that is not over; empty if there is none.

        Where all that began are over, the last one stands for the second.
        """
        lines = self._events.read_text("utf-8").splitlines()
        noted = [json.loads(line) for line in lines]
        failed = next((name for event, name in noted if event == "fail"), "")
        begun = [name for event, name in noted if event == "begin"]
        over = {name for event, name in noted if event == "over"}
        return failed, next((name for name in begun if name not in over), (begun or [""])[-1])

    def _check_imports(self) -> None:
        """Refuse an environment in which the tests would import another copy of the product."""
        code = "import bert_jax, pipelines, tpu; print(bert_jax.__file__)"
        found = _output([self._python, "-c", code], self.tree, self._environment).strip()
        if not Path(found).is_relative_to(self.tree):
            raise RuntimeError(f"the tests would import {found}, not the copy in {self.tree}")


def _copy(source: Path, target: Path) -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, _output(listed, source).split("\0")):
        if (source / name).is_file():  # a file may be deleted and not yet committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)
    # Some tests look at what is tracked.
    _output(["git", "init", "--quiet"], target)
    _output(["git", "add", "--all"], target)


def _write(path: Path, text: str) -> None:
    """Replace the text of a file; compiled copies of it are never taken for those of the new."""
    later = path.stat().st_mtime + 10
    path.write_text(text, "utf-8")
    os.utime(path, (later, later))


def _output(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    ended = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return ended.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with its group, if it has not ended: first so that fixtures clean up."""
    for number, patience in ((signal.SIGINT, _TEARDOWN), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
