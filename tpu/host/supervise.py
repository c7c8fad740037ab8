"""Run one training process on a TPU VM and report its state; kept alive by supervisord.

    python -m tpu.host.supervise HOME LAUNCH

The exit code is that of the training process. supervisord restarts the program unless the code is
final: 0 (complete, or stopped on request), 64 or 78 (a restart does not help).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import (
    BadArgumentsError,
    BadInputError,
    DeviceUnavailableError,
    HungError,
    PreemptedError,
    UserError,
)
from bert_jax.runtime.status_files import BUSY, ENDED, STARTING, TRAINING, Heartbeat, Outcome
from tpu.host.host_info import STEP_FILE, HostInfo, Settings

LOG = "host.log"
_POLL = 0.5  # seconds between checks of the training process
_FIRST_STEP_FACTOR = 4  # x hang_timeout; the watchdog of the process itself allows 3 from its start
_MARGIN = 10.0  # seconds beyond hang_timeout in which the process may end itself
_FIRST_STEP = 1800.0  # minimum of seconds until the first step, which include fetching the store
_LAST_REPORT = 300.0  # seconds for writing the outcome to the run folder
_PAUSES = (1.0, 300.0)  # seconds before a restart: the first and the longest pause
_NOTE = 500  # characters
_MAX_FRUITLESS = 10  # starts without a new step
_FINAL_CODES = (BadArgumentsError.exit_code, BadInputError.exit_code)


@dataclass
class HostState:
    """State that survives a training process, in a file of the host.

    Attributes:
        attempt: Number of the attempt.
        restarts: Restarts of the training process.
        fruitless: Consecutive starts without a new step.
        busy: Consecutive starts that found the chips in use.
        step: Newest step.
        note: Last line of the log of the newest process that ended.
    """

    attempt: int
    restarts: int = -1
    fruitless: int = 0
    busy: int = 0
    step: int = -1
    note: str = ""

    @classmethod
    def read(cls, path: Path, attempt: int) -> HostState:
        """Read the state of this attempt; return a new one if there is none."""
        try:
            state = status_files.from_json(cls, status_files.read_text(path))
        except (OSError, ValueError, BadInputError):
            return cls(attempt)
        return state if state.attempt == attempt else cls(attempt)

    def write(self, path: Path) -> None:
        """Replace the file."""
        status_files.write_file(path, json.dumps(asdict(self)).encode())


class Supervisor:
    """Runs one training process, from its start to its end.

    Attributes:
        host: The host.
    """

    def __init__(self, home: Path, launch: Path) -> None:
        """Count a restart.

        Args:
            home: Folder of this host.
            launch: Files that the startup script fetched.
        """
        self._home = home
        self._launch = launch
        self.host, self._settings = HostInfo.read(home), Settings.read(launch)
        self._state_file = home / "memory.json"
        self._state = HostState.read(self._state_file, self.host.attempt)
        self._state.restarts += 1
        self._state.write(self._state_file)
        (home / STEP_FILE).unlink(missing_ok=True)
        self._stop_requested = False
        self._shutting_down = False
        self._reported_at = self._log_copied_at = 0.0
        self._started_at = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Start the training process, wait for its end and return its exit code."""
        if self._is_stop_requested():
            return self._finish(PreemptedError.exit_code)
        signal.signal(signal.SIGTERM, self._forward_signal)
        self._process = process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "tpu.host.training_process", str(self._home), str(self._launch)],
            env=os.environ
            | {
                # In the run folder, so that the next slice does not compile again.
                "JAX_COMPILATION_CACHE_DIR": f"{self.host.run}/cache",
                "BERT_JAX_STORES": str(self._home / "stores"),
            },
        )
        while process.poll() is None:
            self._report()
            if self._is_stuck():
                say("the training process does not respond; killing it")
                process.kill()
                process.wait()
                return self._finish(HungError.exit_code)
            time.sleep(_POLL)
        return self._finish(process.returncode)

    def _forward_signal(self, number: int, frame: FrameType | None) -> None:
        self._shutting_down = True
        if self._process is not None:
            self._process.send_signal(number)

    def _step(self) -> int | None:
        """Return the newest step of this process; None before its first."""
        try:
            return int((self._home / STEP_FILE).read_text("utf-8") or -1)
        except FileNotFoundError:
            return None

    def _is_stuck(self) -> bool:
        """Return True if the process is silent for longer than its own watchdog allows."""
        limit = self._settings.hang_timeout
        if not limit:
            return False
        if self._step() is None:
            elapsed = time.monotonic() - self._started_at
            return elapsed > max(_FIRST_STEP, _FIRST_STEP_FACTOR * limit)
        silent = time.time() - (self._home / STEP_FILE).stat().st_mtime
        return silent > limit + _MARGIN

    def _report(self) -> None:
        """Write the heartbeat and the log if they are due, and check for a stop request."""
        if time.monotonic() - self._reported_at < self._settings.report:
            return
        state = BUSY if self._state.busy else STARTING
        if self._step() is not None:
            state = TRAINING
        try:
            self._write_heartbeat(state)
            self._copy_log()
            if not self._stop_requested and status_files.stop_requested(self.host.run):
                self._stop_requested = True
                say("stop requested; saving and stopping")
                if self._process is not None:
                    self._process.terminate()
        except Exception as error:  # no failure of reporting may end the training process
            say(f"{self.host.run}: {error}")
        self._reported_at = time.monotonic()

    def _write_heartbeat(self, state: str, exit_code: int | None = None) -> None:
        step = self._step()
        heartbeat = Heartbeat(
            self.host.worker,
            self.host.attempt,
            state,
            step=self._state.step if step is None else step,
            restarts=self._state.restarts,
            busy=self._state.busy,
            exit_code=exit_code,
            pid=self._process.pid if self._process else 0,
            note=self._state.note,
        )
        status_files.write_heartbeat(self.host.run, heartbeat)

    def _copy_log(self) -> None:
        log = self._home / LOG
        if log.is_file() and log.stat().st_mtime > self._log_copied_at:
            self._log_copied_at = log.stat().st_mtime
            target = status_files.log_file(self.host.run, self.host.attempt, self.host.worker)
            status_files.write_file(target, log.read_bytes())

    def _finish(self, code: int) -> int:
        """Report the end of the process, and pause before a restart."""
        if code < 0:
            say(f"the training process was killed by {signal.Signals(-code).name}")
            code = 128 - code
        state, step = self._state, self._step()
        progressed = step is not None and step > state.step
        state.step = max(state.step, -1 if step is None else step)
        # Chips in use have a limit of their own, and a preemption is not a failure.
        excused = code in (DeviceUnavailableError.exit_code, PreemptedError.exit_code)
        state.fruitless = 0 if progressed else state.fruitless + (not excused)
        state.busy = state.busy + 1 if code == DeviceUnavailableError.exit_code else 0
        state.note = self._last_log_line()
        stopped = code not in (0, *_FINAL_CODES) and self._is_stop_requested()
        given_up = code != 0 and state.fruitless >= _MAX_FRUITLESS
        if given_up and not stopped:
            state.note = f"gave up after {_MAX_FRUITLESS} starts without a new step: {state.note}"
        state.write(self._state_file)
        final = code in (0, *_FINAL_CODES) or stopped or given_up
        if not self._report_end(code, final, stopped):
            return UserError.exit_code  # supervisord restarts the program, which tries again
        if final:
            return code if code in _FINAL_CODES else BadInputError.exit_code if given_up else 0
        if not self._shutting_down:
            first, longest = _PAUSES
            time.sleep(min(first * 2.0 ** max(0, state.fruitless - 1), longest))
        return code

    def _report_end(self, code: int, final: bool, stopped: bool) -> bool:
        """Write the log, the last heartbeat and, on host 0, the outcome of the run.

        Returns:
            False if a final report could not be written.
        """
        host, note = self.host, self._state.note
        state = ENDED if final else BUSY if self._state.busy else STARTING
        deadline = time.monotonic() + (_LAST_REPORT if final else 0)
        while True:
            try:
                self._copy_log()
                # Before the heartbeat, after which watchers expect nothing more.
                if final and host.worker == 0:
                    name = "DONE" if code == 0 else "STOPPED" if stopped else "FAILED"
                    outcome = Outcome(
                        host.spec, host.attempt, self._state.step, note if code else ""
                    )
                    status_files.write_outcome(host.run, name, outcome)
                self._write_heartbeat(state, exit_code=code)
                return True
            except Exception as error:  # such as an unreachable bucket
                say(f"{host.run}: {error}")
                if time.monotonic() > deadline:
                    return not final
                time.sleep(_PAUSES[0] * 10)

    def _is_stop_requested(self) -> bool:
        """Return True if the run folder has a stop request, for this or another host."""
        try:
            return self._stop_requested or status_files.stop_requested(self.host.run)
        except (OSError, UserError):
            return False

    def _last_log_line(self) -> str:
        log = self._home / LOG
        lines = log.read_text("utf-8", "replace").split("\n") if log.is_file() else []
        filled = [line for line in lines if line.strip()]
        return filled[-1].removeprefix("bert-jax: ")[:_NOTE] if filled else ""


def main() -> int:
    """Run the command."""
    home, launch = map(Path, sys.argv[1:])
    return Supervisor(home, launch).run()


if __name__ == "__main__":
    sys.exit(main())
