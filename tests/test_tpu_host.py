"""A TPU VM: the real startup script, supervisord and host process, with training that is scripted.

In place of `tpu.trainer` stands a program that does what the test says, so that every way of ending
can be had at will.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from tpu import markers
from tpu.bundle import SUMS, upload
from tpu.host import Host
from tpu.markers import ENDED, Beat
from tpu.place import Settings
from tpu.testing.machines import Machine
from tpu.testing.reaper import processes

ATTRIBUTES = "/computeMetadata/v1/instance/attributes/"

# Does what stands in ACTS, a word per life: "step N" does a step, "exit N" ends, "hang" does not,
# "sleep" waits for a signal.
TRAINER = """
import os, signal, sys, time
from pathlib import Path
home, acts = Path(sys.argv[1]), Path(os.environ["ACTS"])
lives = acts.read_text().splitlines()
acts.write_text("\\n".join(lives[1:]))
def end(*_):
    print("bert-jax: told to stop", flush=True)
    os._exit(75)
signal.signal(signal.SIGTERM, end)
for act in lives[0].split(", ") if lives else ["exit 0"]:
    word, _, value = act.partition(" ")
    print(act, flush=True)
    if word == "step":
        (home / "beat").write_text(value)
        time.sleep(0.3)
    elif word == "say":
        print(f"bert-jax: {value}", flush=True)
    elif word == "exit":
        sys.exit(int(value))
    elif word == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(60)
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        time.sleep(60)
"""

# `python -m tpu.trainer` becomes the program above; everything else is as it is.
INSTEAD = """
import sys
from importlib.util import spec_from_file_location
from pathlib import Path
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "tpu.trainer":
            return spec_from_file_location(name, Path(__file__).parent / "scripted.py")
sys.meta_path.insert(0, Finder())
"""


def files(hang_timeout: int = 0) -> dict[str, bytes]:
    """A bundle with nothing to install."""
    found = {"host.json": Settings(2, hang_timeout, report=0.2).text().encode(), "config.yaml": b""}
    lines = [f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in found.items()]
    return found | {SUMS: "".join(lines).encode()}


class Vm:
    """A machine whose training is scripted."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.run, self.acts = folder / "run", folder / "acts"
        self.run.mkdir()
        stub = folder / "stub"
        stub.mkdir()
        (stub / "scripted.py").write_text(TRAINER, "utf-8")
        (stub / "sitecustomize.py").write_text(INSTEAD, "utf-8")
        self.machine = Machine(
            folder / "vm",
            {},
            {
                "BERT_JAX_PYTHON": sys.executable,
                "PYTHONPATH": f"{stub}:{ROOT}",
                "ACTS": str(self.acts),
                **variables,
            },
        )
        self.sent(files())

    def sent(self, bundle: dict[str, bytes], attempt: int = 1) -> None:
        """Puts a launch into the run folder and its hash into the metadata."""
        upload(bundle, self.run)
        attributes = {
            "startup-script": (ROOT / "tpu" / "startup.sh").read_text("utf-8"),
            "bert-jax-run": str(self.run),
            "bert-jax-spec": "s",
            "bert-jax-attempt": str(attempt),
            "bert-jax-manifest": hashlib.sha256(bundle[SUMS]).hexdigest(),
            "agent-worker-number": "0",
            "worker-network-endpoints": "a:b:127.0.0.1,a:b:127.0.0.2",
            "tpu-env": "ACCELERATOR_TYPE: 'v4-16'\n",
        }
        for name, value in attributes.items():
            self.machine.metadata[ATTRIBUTES + name] = value

    def does(self, *lives: str) -> None:
        """What the training process does in each of its lives."""
        self.acts.write_text("\n".join(lives), "utf-8")

    def booted(self) -> None:
        self.machine.boot()

    def here(self, monkeypatch: pytest.MonkeyPatch) -> Host:
        """Its host program in this process, after what the startup script does."""
        for name, value in self.machine.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("signal.signal", lambda number, handler: None)
        attributes = self.machine.home / "attributes"
        attributes.mkdir(parents=True, exist_ok=True)
        for path, value in self.machine.metadata.items():
            (attributes / path.removeprefix(ATTRIBUTES)).write_text(value, "utf-8")
        return Host(self.machine.home, self.run / "launch")

    def beat(self) -> Beat | None:
        beats = markers.look(self.run)[0].beats
        return beats[0] if beats else None

    def until(self, condition: Callable[[Beat], Any], seconds: float = 20.0) -> Beat:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (beat := self.beat()) is not None and condition(beat):
                return beat
            time.sleep(0.05)
        log = self.machine.home / "host.log"
        boot = self.machine.home.parent / "vm.log"
        texts = [path.read_text("utf-8") for path in (log, boot) if path.exists()]
        raise AssertionError(f"{self.beat()}\n{''.join(texts)}")

    def log(self) -> str:
        return markers.log_file(self.run, 1, 0).read_text("utf-8")

    def supervisors(self) -> list[int]:
        def line(pid: int) -> bytes:
            try:
                return Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                return b""

        return [pid for pid in processes(self.machine.home) if b"supervisord" in line(pid)]


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    found = Vm(tmp_path)
    yield found
    found.machine.close()
    assert processes(found.machine.home) == []


def test_it_trains_to_the_end_and_says_so(vm: Vm) -> None:
    vm.does("step 1, step 2, step 3, exit 0")
    vm.booted()
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.worker, beat.attempt, beat.step, beat.exit_code) == (0, 1, 3, 0)
    done = markers.ended(vm.run, "DONE")
    assert done is not None
    assert (done.spec, done.attempt, done.step) == ("s", 1, 3)
    assert "step 2\nstep 3\n" in vm.log()
    time.sleep(1.5)
    assert (beat := vm.beat()) is not None
    assert beat.restarts == 0, "a run that is done is not started again"


@pytest.mark.parametrize("code", [1, 69, 70, 75])
def test_it_is_started_again_after(vm: Vm, code: int) -> None:
    vm.does(f"step 5, exit {code}", "step 9, exit 0")
    vm.booted()
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.step, beat.restarts) == (9, 1)
    assert markers.ended(vm.run, "FAILED") is None


def test_it_is_started_again_after_a_kill(vm: Vm) -> None:
    vm.does("step 5, kill", "step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.state == ENDED)
    assert "the training process was ended by SIGKILL" in vm.log()


def test_who_sees_the_end_in_a_heartbeat_finds_the_marker(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's own part, whose heartbeats are looked at as they are sent."""
    sent: list[tuple[str, bool]] = []
    beat = markers.beat

    def looked_at(run: Path, found: Beat) -> None:
        beat(run, found)
        sent.append((found.state, markers.ended(run, "DONE") is not None))

    monkeypatch.setattr("tpu.markers.beat", looked_at)
    vm.does("step 1, exit 0")
    assert vm.here(monkeypatch).run() == 0
    assert sent[-1] == (ENDED, True)


@pytest.mark.parametrize("code", [64, 78])
def test_it_is_never_started_again_after(vm: Vm, code: int) -> None:
    vm.does(f"say data.store is damaged, exit {code}", "step 9, exit 0")
    vm.booted()
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.exit_code, beat.note) == (code, f"exit {code}")
    failed = markers.ended(vm.run, "FAILED")
    assert failed is not None
    time.sleep(1.5)
    assert vm.acts.read_text("utf-8") == "step 9, exit 0", "another life"


def test_a_crash_loop_without_a_new_step_is_given_up(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's own part, in the place of which supervisord would start it again."""
    monkeypatch.setattr("tpu.host._PAUSES", (0.0, 0.0))
    vm.does(*["step 4, exit 1"] * 20)
    vm.machine.home.mkdir(exist_ok=True)
    (vm.machine.home / "host.log").write_text("bert-jax: the disk is full\n", "utf-8")
    codes = []
    while not codes or codes[-1] == 1:
        codes.append(vm.here(monkeypatch).run())
    assert codes == [1] * 10 + [78]  # the first got on, ten did not
    failed = markers.ended(vm.run, "FAILED")
    assert failed is not None
    assert failed.step == 4
    assert failed.note == "given up after 10 starts without a new step: the disk is full"


def test_chips_that_are_held_are_told_of(vm: Vm) -> None:
    vm.does("exit 69", "exit 69", "sleep")
    vm.booted()
    beat = vm.until(lambda beat: beat.busy == 2 and beat.restarts == 2)
    assert beat.state == "busy"


def test_one_that_hangs_is_killed(vm: Vm) -> None:
    vm.sent(files(hang_timeout=1))
    vm.does("step 5, hang", "step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.step == 9 and beat.state == ENDED, 40)
    assert "does not answer; it is killed" in vm.log()


def test_stop_saves_and_ends(vm: Vm) -> None:
    vm.does("step 5, sleep", "step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.step == 5)
    markers.ask_to_stop(vm.run)
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.exit_code, beat.note) == (75, "told to stop")
    stopped = markers.ended(vm.run, "STOPPED")
    assert stopped is not None
    assert stopped.step == 5
    assert vm.acts.read_text("utf-8") == "step 9, exit 0"


def test_stop_before_it_begins_and_while_it_begins(vm: Vm) -> None:
    """What ends before it can save has nothing to save; it must not be started again."""
    markers.ask_to_stop(vm.run)
    vm.does("step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.state == ENDED)
    assert vm.acts.read_text("utf-8") == "step 9, exit 0"
    assert markers.ended(vm.run, "STOPPED") is not None


def test_a_stop_that_comes_before_the_handler_is_a_stop_all_the_same(vm: Vm) -> None:
    vm.does("deaf", "step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.state == "starting")
    markers.ask_to_stop(vm.run)
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert beat.exit_code == 128 + signal.SIGTERM
    assert markers.ended(vm.run, "STOPPED") is not None
    assert markers.ended(vm.run, "FAILED") is None


def test_a_machine_that_goes_down_lets_the_training_process_save(vm: Vm) -> None:
    vm.does("step 5, sleep", "exit 0")
    vm.booted()
    vm.until(lambda beat: beat.step == 5)
    (supervisor,) = vm.supervisors()
    os.kill(supervisor, signal.SIGTERM)
    end = time.monotonic() + 15
    while processes(vm.machine.home) and time.monotonic() < end:
        time.sleep(0.1)
    assert processes(vm.machine.home) == []
    text = (vm.machine.home / "host.log").read_text("utf-8")
    assert "bert-jax: told to stop" in text


def test_the_script_twice_at_once_and_after_a_reboot(vm: Vm) -> None:
    vm.does("step 5, sleep", "step 7, exit 0")
    vm.booted()
    first = vm.until(lambda beat: beat.step == 5)
    supervisors = vm.supervisors()
    vm.booted()
    time.sleep(2)
    assert vm.supervisors() == supervisors
    assert len(supervisors) == 1
    assert (now := vm.beat()) is not None
    assert now.pid == first.pid
    vm.machine.off()
    # The same disk, and the run folder that is fetched from is not needed any more.
    (vm.run / "launch" / "host.json").unlink()
    vm.booted()
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.step, beat.restarts) == (7, 1)


def test_another_attempt_on_the_same_disk_forgets_what_was(vm: Vm) -> None:
    vm.does("exit 69", "exit 69", "sleep")
    vm.booted()
    vm.until(lambda beat: beat.busy == 2)
    vm.machine.off()
    vm.sent(files(), attempt=2)
    vm.does("step 1, sleep")
    vm.booted()
    beat = vm.until(lambda beat: beat.attempt == 2 and beat.step == 1)
    assert (beat.restarts, beat.busy) == (0, 0)


@pytest.mark.parametrize("name", [SUMS, "host.json"])
def test_what_is_not_what_was_submitted_is_not_run(vm: Vm, name: str) -> None:
    vm.does("exit 0")
    with (vm.run / "launch" / name).open("ab") as file:
        file.write(b" ")
    vm.booted()
    log = vm.run / "logs" / "attempt-0001" / "startup-0.log"
    end = time.monotonic() + 20
    while not log.exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.2)
    text = log.read_text("utf-8")
    assert ("submit again" in text) if name == SUMS else ("host.json: FAILED" in text)
    assert not vm.supervisors()
    assert vm.acts.read_text("utf-8") == "exit 0"
