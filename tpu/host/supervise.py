"""What supervisord keeps alive on a TPU VM: the training process, its heartbeat and its log.

    python -m tpu.host.supervise HOME LAUNCH

Ends with the exit code of the training process, by which supervisord starts it again or does not:
0 (done, or stopped as asked), 64 and 78 (starting again does not help) are final.
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
from tpu.host.host_info import BEAT, HostInfo, Settings

LOG = "host.log"
_LOOK = 0.5  # seconds between looks at the training process
_FIRST = 4  # times hang_timeout; the watchdog in it allows three from where it begins
_MARGIN = 10.0  # seconds beyond hang_timeout in which it may end itself
_START = 1800.0  # seconds until the first step; placing the store is part of it
_PATIENCE = 300.0  # seconds in which the run folder must take the last word
_PAUSES = (1.0, 300.0)  # seconds before it is started again, after the first end and at most
_NOTE = 500  # characters
_FRUITLESS = 10  # starts without a new step after which it is given up
_NEVER_AGAIN = (BadArgumentsError.exit_code, BadInputError.exit_code)


@dataclass
class Memory:
    """What outlives a training process, in a file of the host.

    Attributes:
        attempt: Number of the slice.
        restarts: Of the training process.
        fruitless: Starts in a row without a new step.
        busy: Starts in a row that found the chips held.
        step: Newest.
        note: Why the newest one ended.
    """

    attempt: int
    restarts: int = -1
    fruitless: int = 0
    busy: int = 0
    step: int = -1
    note: str = ""

    @classmethod
    def read(cls, path: Path, attempt: int) -> Memory:
        """Of this attempt; a new one if there is none."""
        try:
            found = status_files.typed(cls, status_files.text_of(path))
        except (OSError, ValueError, BadInputError):
            return cls(attempt)
        return found if found.attempt == attempt else cls(attempt)

    def write(self, path: Path) -> None:
        """Keeps it."""
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self)), "utf-8")
        draft.replace(path)


class Host:
    """One life of the training process."""

    def __init__(self, home: Path, launch: Path) -> None:
        """Of this machine, for the files that the startup script fetched."""
        self._home = home
        self.place, self._settings = HostInfo.read(home), Settings.read(launch)
        self._file = home / "memory.json"
        self._memory = Memory.read(self._file, self.place.attempt)
        self._memory.restarts += 1
        self._memory.write(self._file)
        (home / BEAT).unlink(missing_ok=True)
        self._asked = False  # to stop, by the run folder
        self._leaving = False  # the machine goes down
        self._sent = self._copied = 0.0
        self._begun = time.monotonic()
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Starts it, watches it to its end, and returns its exit code."""
        if self._was_asked():
            return self._conclude(PreemptedError.exit_code)
        signal.signal(signal.SIGTERM, self._pass_on)
        self._process = process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "tpu.host.trainer", str(self._home), str(self._launch)],
            env=os.environ
            | {
                # Kept in the run folder, so that the next slice need not compile again.
                "JAX_COMPILATION_CACHE_DIR": f"{self.place.run}/cache",
                "BERT_JAX_STORES": str(self._home / "stores"),
            },
        )
        while process.poll() is None:
            self._report()
            if self._is_stuck():
                say("the training process does not answer; it is killed")
                process.kill()
                process.wait()
                return self._conclude(HungError.exit_code)
            time.sleep(_LOOK)
        return self._conclude(process.returncode)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._leaving = True
        if self._process is not None:
            self._process.send_signal(number)

    def _step(self) -> int | None:
        """The newest step of this process; None before its first."""
        try:
            return int((self._home / BEAT).read_text("utf-8") or -1)
        except FileNotFoundError:
            return None

    def _is_stuck(self) -> bool:
        """Whether it is silent for longer than its own watchdog allows, as when it was stopped."""
        limit = self._settings.hang_timeout
        if not limit:
            return False
        if self._step() is None:
            return time.monotonic() - self._begun > max(_START, _FIRST * limit)
        silent = time.time() - (self._home / BEAT).stat().st_mtime
        return silent > limit + _MARGIN

    def _report(self) -> None:
        """Sends a heartbeat and the log when it is time, and looks for a request to stop."""
        if time.monotonic() - self._sent < self._settings.report:
            return
        step = self._step()
        state = STARTING if step is None else TRAINING
        if self._memory.busy and step is None:
            state = BUSY
        try:
            self._send(Heartbeat(self.place.worker, self.place.attempt, state))
            self._copy_log()
            if not self._asked and status_files.stop_asked(self.place.run):
                self._asked = True
                say("the run was asked to stop")
                if self._process is not None:
                    self._process.terminate()
        except Exception as error:  # whatever it is, the training process does not depend on it
            say(f"{self.place.run}: {error}")
        self._sent = time.monotonic()

    def _send(self, beat: Heartbeat) -> None:
        step = self._step()
        known = asdict(beat) | {
            "step": self._memory.step if step is None else step,
            "restarts": self._memory.restarts,
            "busy": self._memory.busy,
            "pid": self._process.pid if self._process else 0,
            "note": beat.note or self._memory.note,
        }
        status_files.beat(self.place.run, Heartbeat(**known))

    def _copy_log(self) -> None:
        log = self._home / LOG
        if log.is_file() and log.stat().st_mtime > self._copied:
            self._copied = log.stat().st_mtime
            target = status_files.log_file(self.place.run, self.place.attempt, self.place.worker)
            status_files.put(target, log.read_bytes())

    def _conclude(self, code: int) -> int:
        """Tells how it ended, and waits a little if it is to be started again."""
        if code < 0:
            say(f"the training process was ended by {signal.Signals(-code).name}")
            code = 128 - code
        memory, step = self._memory, self._step()
        got_on = step is not None and step > memory.step
        memory.step = max(memory.step, -1 if step is None else step)
        # Chips that are held have a budget of their own, and a preemption is nobody's fault.
        excused = code in (DeviceUnavailableError.exit_code, PreemptedError.exit_code)
        memory.fruitless = 0 if got_on else memory.fruitless + (not excused)
        memory.busy = memory.busy + 1 if code == DeviceUnavailableError.exit_code else 0
        memory.note = self._last_line()
        stopped = code not in (0, *_NEVER_AGAIN) and self._was_asked()
        given_up = code != 0 and memory.fruitless >= _FRUITLESS
        if given_up and not stopped:
            memory.note = f"given up after {_FRUITLESS} starts without a new step: {memory.note}"
        memory.write(self._file)
        final = code in (0, *_NEVER_AGAIN) or stopped or given_up
        if not self._tell(code, final, stopped):
            return UserError.exit_code  # nobody heard of it: once more
        if final:
            return code if code in _NEVER_AGAIN else BadInputError.exit_code if given_up else 0
        if not self._leaving:
            first, most = _PAUSES
            time.sleep(min(first * 2.0 ** max(0, memory.fruitless - 1), most))
        return code

    def _tell(self, code: int, final: bool, stopped: bool) -> bool:
        """Sends the last heartbeat, the log, and what host 0 says for all; whether it was heard."""
        place, note = self.place, self._memory.note
        state = ENDED if final else BUSY if self._memory.busy else STARTING
        end = time.monotonic() + (_PATIENCE if final else 0)
        while True:
            try:
                self._copy_log()
                # Before the heartbeat, which says that there is nothing more to come.
                if final and place.worker == 0:
                    name = "DONE" if code == 0 else "STOPPED" if stopped else "FAILED"
                    step = self._memory.step
                    ending = Outcome(place.spec, place.attempt, step, note if code else "")
                    status_files.end(place.run, name, ending)
                self._send(Heartbeat(place.worker, place.attempt, state, exit_code=code))
                return True
            except Exception as error:  # such as a bucket that cannot be reached
                say(f"{place.run}: {error}")
                if time.monotonic() > end:
                    return not final
                time.sleep(_PAUSES[0] * 10)

    def _was_asked(self) -> bool:
        """Whether it stopped because the run folder says so, be it to another host."""
        try:
            return self._asked or status_files.stop_asked(self.place.run)
        except (OSError, UserError):
            return False

    def _last_line(self) -> str:
        log = self._home / LOG
        lines = log.read_text("utf-8", "replace").split("\n") if log.is_file() else []
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("bert-jax: ")[:_NOTE] if said else ""


def main() -> int:
    """Runs the command."""
    home, launch = map(Path, sys.argv[1:])
    return Host(home, launch).run()


if __name__ == "__main__":
    sys.exit(main())
