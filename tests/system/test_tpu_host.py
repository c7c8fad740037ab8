"""A TPU VM with the real startup script, supervisord and host process, but scripted training.

A script of the test replaces `tpu.host.training_process`, so that the test chooses how it ends.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_jax.runtime import status_files
from bert_jax.runtime.status_files import ENDED, Heartbeat
from support.scripted_vm import Vm, files
from support.waiting import wait_until
from tpu.launch.bundle import SUMS
from tpu.rehearsal.process_cleanup import processes


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    scripted = Vm(tmp_path)
    yield scripted
    scripted.machine.close()
    assert processes(scripted.machine.home) == []


def test_it_trains_to_the_end_and_writes_done(vm: Vm) -> None:
    vm.script("step 1, step 2, step 3, exit 0")
    vm.booted()
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.worker, beat.attempt, beat.step, beat.exit_code) == (0, 1, 3, 0)
    done = status_files.read_outcome(vm.run, "DONE")
    assert done is not None
    assert (done.spec, done.attempt, done.step) == ("s", 1, 3)
    assert "step 2\nstep 3\n" in vm.log()
    time.sleep(1.5)
    assert (beat := vm.beat()) is not None
    assert beat.restarts == 0, "a complete run was restarted"


@pytest.mark.parametrize(
    "code", [75, *(pytest.param(code, marks=pytest.mark.full) for code in (1, 69, 70))]
)
def test_it_is_started_again_after(vm: Vm, code: int) -> None:
    vm.script(f"step 5, exit {code}", "step 9, exit 0")
    vm.booted()
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.step, beat.restarts) == (9, 1)
    assert status_files.read_outcome(vm.run, "FAILED") is None


def test_it_is_started_again_after_a_kill(vm: Vm) -> None:
    vm.script("step 5, kill", "step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.state == ENDED)
    assert "the training process was killed by SIGKILL" in vm.log()


def test_the_outcome_is_written_before_the_last_heartbeat(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the supervisor in this process and observe its heartbeats."""
    sent: list[tuple[str, bool]] = []
    write_heartbeat = status_files.write_heartbeat

    def observed(run: Path, heartbeat: Heartbeat) -> None:
        write_heartbeat(run, heartbeat)
        sent.append((heartbeat.state, status_files.read_outcome(run, "DONE") is not None))

    monkeypatch.setattr("bert_jax.runtime.status_files.write_heartbeat", observed)
    vm.script("step 1, exit 0")
    assert vm.supervisor(monkeypatch).run() == 0
    assert sent[-1] == (ENDED, True)


@pytest.mark.parametrize("code", [78, pytest.param(64, marks=pytest.mark.full)])
def test_it_is_never_started_again_after(vm: Vm, code: int) -> None:
    vm.script(f"say data.store is damaged, exit {code}", "step 9, exit 0")
    vm.booted()
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.exit_code, beat.note) == (code, f"exit {code}")
    failed = status_files.read_outcome(vm.run, "FAILED")
    assert failed is not None
    time.sleep(1.5)
    assert vm.acts.read_text("utf-8") == "step 9, exit 0", "restarted"


def test_a_crash_loop_without_a_new_step_is_given_up(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the supervisor in this process; supervisord would restart it."""
    monkeypatch.setattr("tpu.host.supervise._PAUSES", (0.0, 0.0))
    vm.script(*["step 4, exit 1"] * 20)
    vm.machine.home.mkdir(exist_ok=True)
    (vm.machine.home / "host.log").write_text("bert-jax: the disk is full\n", "utf-8")
    codes = []
    while not codes or codes[-1] == 1:
        codes.append(vm.supervisor(monkeypatch).run())
    assert codes == [1] * 10 + [78]  # the first made a new step, ten did not
    failed = status_files.read_outcome(vm.run, "FAILED")
    assert failed is not None
    assert failed.step == 4
    assert failed.note == "gave up after 10 starts without a new step: the disk is full"


def test_preemptions_without_a_new_step_are_not_given_up(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preemptions are not failures, however many follow each other."""
    monkeypatch.setattr("tpu.host.supervise._PAUSES", (0.0, 0.0))
    vm.script(*["step 4, exit 75"] * 13)
    assert {vm.supervisor(monkeypatch).run() for _ in range(13)} == {75}
    assert status_files.read_outcome(vm.run, "FAILED") is None


@pytest.mark.full
def test_chips_in_use_are_reported(vm: Vm) -> None:
    vm.script("exit 69", "exit 69", "sleep")
    vm.booted()
    beat = vm.until(lambda beat: beat.busy == 2 and beat.restarts == 2)
    assert beat.state == "busy"


@pytest.mark.full
def test_a_hanging_process_is_killed(vm: Vm) -> None:
    vm.sent(files(hang_timeout=1))
    vm.script("step 5, hang", "step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.step == 9 and beat.state == ENDED, 40)
    assert "does not respond; killing it" in vm.log()


def test_stop_saves_and_ends(vm: Vm) -> None:
    vm.script("step 5, sleep", "step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.step == 5)
    status_files.request_stop(vm.run)
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.exit_code, beat.note) == (75, "told to stop")
    stopped = status_files.read_outcome(vm.run, "STOPPED")
    assert stopped is not None
    assert stopped.step == 5
    assert vm.acts.read_text("utf-8") == "step 9, exit 0"


def test_a_stop_before_the_start_and_during_it(vm: Vm) -> None:
    """A process that ends before it can save must not be restarted."""
    status_files.request_stop(vm.run)
    vm.script("step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.state == ENDED)
    assert vm.acts.read_text("utf-8") == "step 9, exit 0"
    assert status_files.read_outcome(vm.run, "STOPPED") is not None


def test_a_stop_before_the_signal_handler_counts(vm: Vm) -> None:
    vm.script("deaf", "step 9, exit 0")
    vm.booted()
    vm.until(lambda beat: beat.state == "starting")
    status_files.request_stop(vm.run)
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert beat.exit_code == 128 + signal.SIGTERM
    assert status_files.read_outcome(vm.run, "STOPPED") is not None
    assert status_files.read_outcome(vm.run, "FAILED") is None


def test_a_machine_that_goes_down_lets_the_training_process_save(vm: Vm) -> None:
    vm.script("step 5, sleep", "exit 0")
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


@pytest.mark.full
def test_the_script_twice_at_once_and_after_a_reboot(vm: Vm) -> None:
    vm.script("step 5, sleep", "step 7, exit 0")
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
    # The disk is the same, and the files in the run folder are no longer needed.
    (vm.run / "launch" / "host.json").unlink()
    vm.booted()
    beat = vm.until(lambda beat: beat.state == ENDED)
    assert (beat.step, beat.restarts) == (7, 1)


def test_another_attempt_on_the_same_disk_starts_with_a_new_state(vm: Vm) -> None:
    vm.script("exit 69", "exit 69", "sleep")
    vm.booted()
    vm.until(lambda beat: beat.busy == 2)
    vm.machine.off()
    vm.sent(files(), attempt=2)
    vm.script("step 1, sleep")
    vm.booted()
    beat = vm.until(lambda beat: beat.attempt == 2 and beat.step == 1)
    assert (beat.restarts, beat.busy) == (0, 0)


@pytest.mark.parametrize("name", [SUMS, "host.json"])
def test_a_changed_bundle_is_not_run(vm: Vm, name: str) -> None:
    vm.script("exit 0")
    with (vm.run / "launch" / name).open("ab") as file:
        file.write(b" ")
    vm.booted()
    log = vm.run / "logs" / "attempt-0001" / "startup-0.log"
    expected = "submit again" if name == SUMS else "host.json: FAILED"
    wait_until(lambda: log.exists() and expected in log.read_text("utf-8"))
    assert not vm.supervisors()
    assert vm.acts.read_text("utf-8") == "exit 0"
