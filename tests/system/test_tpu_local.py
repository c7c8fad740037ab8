"""Rehearsals with two emulated hosts, with faults and preemptions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from bert_jax.config.run import CheckpointConfig, Phase, RunConfig
from bert_jax.runtime import status_files
from bert_jax.runtime.status_files import Heartbeat
from bert_jax.training import metrics
from pipelines.data.store.prepare import prepare
from support import rehearsal
from support.commands import ROOT, command, inspected, refused, write_config
from support.corpora import write_corpus
from support.jobs import start_two, wait_for_all
from support.shared import Shared
from tpu.config import SubmittedConfig
from tpu.launch.request import read_launch
from tpu.rehearsal.fake_validation import ApiError
from tpu.rehearsal.local import Emulation, emulated, on_workers, rehearse
from tpu.rehearsal.process_cleanup import processes

STEPS = 40


def submitted(base: RunConfig, run: Path) -> SubmittedConfig:
    values = {key.name: getattr(base, key.name) for key in fields(RunConfig)}
    return SubmittedConfig(**values | {"run_dir": str(run)})


def same_run(run: Path, other: Path) -> None:
    """Assert equal weights, losses and evaluations, and one line per step."""
    assert inspected(run)["digest"] == inspected(other)["digest"]
    lines, others = ([x for x in metrics.read(path) if "loss" in x] for path in (run, other))
    for line, other_line in zip(lines, others, strict=True):
        assert line["step"] == other_line["step"]
        for name in ("loss", "grad_norm"):
            assert line[name] == other_line[name], line["step"]
    evaluations = [
        [(x["step"], x["eval_mlm_loss"]) for x in metrics.read(path) if "eval_mlm_loss" in x]
        for path in (run, other)
    ]
    assert evaluations[0] == evaluations[1]


def tpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tpu", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def tpu_local(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tpu", "local", *map(str, arguments)]


@pytest.fixture(scope="module")
def base(config_base: RunConfig, tokenizer_dir: Path, shared: Shared) -> RunConfig:
    """A config with enough held-out text for a fault during an evaluation."""

    def build(folder: Path) -> None:
        corpus = write_corpus(folder / "stories.txt", 300)
        prepare([f"text:{corpus}"], tokenizer_dir, folder / "store", 0.5)

    folder = shared("held-out", build)
    return replace(
        config_base,
        data=replace(config_base.data, store=str(folder / "store")),
        train=replace(config_base.train, eval_every=20, eval_batches=0),
        phases=(Phase(length=32, steps=STEPS),),
        checkpoint=replace(config_base.checkpoint, every=10),
    )


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig, shared: Shared) -> Path:
    """Return the run folder of the same run by two processes without faults."""

    def build(folder: Path) -> None:
        file = write_config(replace(base, run_dir=str(folder / "run")), folder)
        results = wait_for_all(start_two(command("pretrain", "--config", file)))
        assert [result.returncode for result in results] == [0, 0], results[0].stderr

    return shared("undisturbed", build) / "run"


@pytest.fixture
def emulation(tmp_path: Path) -> Iterator[Emulation]:
    # Cache every compiled program, so that nothing is compiled again after a fault.
    variables = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": rehearsal.FLAGS}
    with emulated(tmp_path / "machines", variables) as started:
        yield started
    assert processes(tmp_path / "machines") == []


def test_a_preempted_rehearsal_ends_with_the_same_bits_and_leaves_nothing(
    config_base: RunConfig, two_processes: Path, tmp_path: Path
) -> None:
    """Run the command with two hosts of two devices each."""
    run, machines = tmp_path / "run", tmp_path / "machines"
    machines.mkdir()
    # A save after every step makes the run last for several heartbeats.
    slow = replace(config_base, run_dir=str(run), checkpoint=CheckpointConfig(every=1))
    file = write_config(slow, tmp_path)
    result = rehearsal.run(file, "--workers", "2", "--preempt-at", "2", TMPDIR=str(machines))
    assert result.returncode == 0, result.stderr
    assert list(machines.iterdir()) == []
    done = json.loads((run / "status" / "DONE.json").read_text("utf-8"))
    assert done["step"] == config_base.steps
    first, second = status_files.read_status(run)[0].attempts
    assert (first.ended, second.ended) == ("preempted", "done")
    assert 2 <= first.ended_step < config_base.steps
    for attempt, worker in product((1, 2), (0, 1)):
        assert (run / f"logs/attempt-{attempt:04}/worker-{worker}.log").stat().st_size
    same_run(run, two_processes)


class Faults:
    """Injects each fault once at its step, after the recovery from the previous one."""

    def __init__(self, run: Path, emulation: Emulation) -> None:
        self.run, self.emulation = run, emulation
        self.injected: list[str] = []
        self._plan = [(4, "kill"), (8, "terminate"), (12, "stop"), (24, "preempt")]
        self._restarts = [-1, -1]  # of both hosts at the newest fault

    def __call__(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.02)
            self._inject_when_due()

    def _inject_when_due(self) -> None:
        status, _ = status_files.read_status(self.run)
        heartbeats = [beat for beat in status.heartbeats if beat.state == status_files.TRAINING]
        if len(heartbeats) < 2 or not self._plan:
            return
        step, fault = self._plan[0]
        restarts = [beat.restarts for beat in heartbeats]
        # Not while a process is about to end because of the previous fault.
        recovered = all(now > then for now, then in zip(restarts, self._restarts, strict=True))
        if recovered and min(beat.step for beat in heartbeats) >= step:
            self._plan.pop(0)
            self.injected.append(fault)
            self._restarts = restarts
            self._inject(fault, heartbeats)

    def _inject(self, fault: str, heartbeats: list[Heartbeat]) -> None:
        if fault == "preempt":
            self.emulation.cloud.preempt(read_launch(self.run).name)
            return
        victim, number = {
            "kill": (1, signal.SIGKILL),
            "terminate": (0, signal.SIGTERM),
            "stop": (1, signal.SIGSTOP),
        }[fault]
        os.kill(heartbeats[victim].pid, number)


@pytest.mark.full
@pytest.mark.timeout(500)
def test_killed_terminated_stopped_and_preempted_it_ends_with_the_same_bits(
    base: RunConfig,
    undisturbed: Path,
    emulation: Emulation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    # Enough for a save that compiles on a busy machine. The supervisor and not JAX should detect
    # the stopped process. A save after every step makes each session outlast several heartbeats.
    base = replace(
        base,
        train=replace(base.train, hang_timeout=30),
        checkpoint=replace(base.checkpoint, every=1),
    )
    monkeypatch.setattr("tpu.rehearsal.local._SILENCE", 90)
    config = on_workers(submitted(base, run), 2)
    faults = Faults(run, emulation)
    rehearse(config, emulation, pause=faults)
    assert faults.injected == ["kill", "terminate", "stop", "preempt"]
    first, second = status_files.read_status(run)[0].attempts
    assert (first.ended, second.ended) == ("preempted", "done")
    with pytest.raises(ApiError):
        emulation.cloud.call("GetQueuedResource", SimpleNamespace(name=read_launch(run).name))
    assert emulation.vms.running == {}
    log = "".join(path.read_text("utf-8") for path in (run / "logs").glob("*/*.log"))
    assert "no step was done for 30 seconds" in log, log  # the peer of the one that was stopped
    assert "does not respond; killing it" in log, log  # the one that was stopped
    assert re.search(r"stopped on request: step \d+ of 40 is saved", log)
    same_run(run, undisturbed)
    homes = list((tmp_path / "machines").glob("boot-*/*/attributes"))
    assert len(homes) == 4
    for home in homes:
        find = ["find", str(home.parent), "-perm", "/077", "-not", "-type", "l"]
        readable = subprocess.run(find, capture_output=True, text=True, check=True)
        assert readable.stdout == "", "readable for others on a machine"


class AwkwardPreemptions:
    """Preempts the slice during the compilation and during an evaluation."""

    def __init__(self, run: Path, emulation: Emulation) -> None:
        self.run, self.emulation = run, emulation
        self.left = [self.compiling, self.evaluating]

    def compiling(self) -> bool:
        status, _ = status_files.read_status(self.run)
        return [heartbeat.state for heartbeat in status.heartbeats] == [status_files.STARTING] * 2

    def evaluating(self) -> bool:
        lines = [line for line in metrics.read(self.run) if line["step"] == 20]
        return [("eval_mlm_loss" in line) for line in lines] == [False]

    def __call__(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.02)
            if self.left and self.left[0]():
                self.left.pop(0)
                self.emulation.cloud.preempt(read_launch(self.run).name)


@pytest.mark.full
@pytest.mark.timeout(500)
def test_two_slices_are_one_job_and_may_go_while_compiling_and_evaluating(
    base: RunConfig, undisturbed: Path, emulation: Emulation, tmp_path: Path
) -> None:
    config = submitted(base, tmp_path / "run")
    config = on_workers(replace(config, tpu=replace(config.tpu, slices=2)), 2)
    faults = AwkwardPreemptions(tmp_path / "run", emulation)
    rehearse(config, emulation, pause=faults)
    assert faults.left == []
    attempts = status_files.read_status(tmp_path / "run")[0].attempts
    assert [a.ended for a in attempts] == ["preempted", "preempted", "done"]
    assert attempts[0].ended_step == -1
    assert attempts[1].ended_step < 20
    same_run(tmp_path / "run", undisturbed)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_hosts_of_a_rehearsal_end_with_it(base: RunConfig, tmp_path: Path, number: int) -> None:
    file = write_config(replace(base, run_dir=str(tmp_path / "run")), tmp_path)
    process = subprocess.Popen(
        tpu_local("--config", file, "--workers", "2"),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )

    def machines() -> list[int]:
        folders = tmp_path.glob("bert-jax-local-*")
        return [pid for folder in folders for pid in processes(folder)]

    assert process.stderr is not None
    assert any("RUNNING" in line for line in iter(process.stderr.readline, ""))
    assert len(machines()) >= 4  # two of supervisord, two hosts
    # Other commands work during the rehearsal, and a second rehearsal is refused.
    if number == signal.SIGTERM:
        run = str(tmp_path / "run")
        result = tpu("status", run)
        assert "RUNNING" in result.stdout, result.stderr
        second = tpu("local", "--config", str(file), "--workers", "2")
        refused(second, 69, "another process is writing to")
    process.send_signal(number)
    err = process.communicate(timeout=20)[1]
    assert process.returncode == (75 if number != signal.SIGKILL else -signal.SIGKILL), err
    end = time.monotonic() + 10
    while machines() and time.monotonic() < end:
        time.sleep(0.05)
    assert machines() == []
    if number == signal.SIGTERM:
        refused(tpu("status", run), 78, "was a rehearsal", "tpu logs")
    if number != signal.SIGKILL:
        assert list(tmp_path.glob("bert-jax-local-*")) == []


def test_there_is_no_slice_of_three_hosts(base: RunConfig, tmp_path: Path) -> None:
    file = write_config(replace(base, run_dir=str(tmp_path / "run")), tmp_path)
    result = tpu("local", "--config", str(file), "--workers", "3")
    refused(result, 64, "--workers 3", "1, 2, 4, 8")
    result = tpu("local", "--config", str(file), "--data.store", "/nonexistent")
    refused(result, 78, "/nonexistent is not a finished token store")
