"""The whole way on emulated machines: two hosts train, and what can happen to them does."""

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
from pathlib import Path

import pytest

from bert_jax import metrics
from bert_jax.config import Phase, RunConfig
from conftest import ROOT, inspected, write_config
from tpu import markers
from tpu.config import SubmittedConfig
from tpu.local import Emulation, emulated, on_workers, rehearse
from tpu.markers import Beat
from tpu.request import read_launch
from tpu.testing.reaper import processes

STEPS = 60


def tpu_local(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tpu", "local", *map(str, arguments)]


@pytest.fixture(scope="module")
def base(config_base: RunConfig) -> RunConfig:
    train = replace(config_base.train, eval_every=20, hang_timeout=12)
    return replace(config_base, train=train, phases=(Phase(length=32, steps=STEPS),))


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a rehearsal by the command, without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file = write_config(replace(base, run_dir=str(folder / "run")), folder)
    result = subprocess.run(
        tpu_local("--config", file, "--workers", "2"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "DONE: the run is done at step 60" in result.stderr
    return folder / "run"


@pytest.fixture
def emulation(tmp_path: Path) -> Iterator[Emulation]:
    with emulated(tmp_path / "machines", {}) as found:
        yield found
    assert processes(tmp_path / "machines") == []


def test_a_rehearsal_leaves_the_run_and_nothing_else(undisturbed: Path) -> None:
    done = json.loads((undisturbed / "status" / "DONE.json").read_text("utf-8"))
    assert done["step"] == STEPS
    assert [line["step"] for line in metrics.read(undisturbed) if "loss" in line] == [
        *range(1, STEPS + 1)
    ]
    (attempt,) = markers.look(undisturbed)[0].attempts
    assert (attempt.ended, attempt.ended_step) == ("done", STEPS)
    assert {path.name for path in (undisturbed / "logs" / "attempt-0001").iterdir()} == {
        "worker-0.log",
        "worker-1.log",
    }
    log = (undisturbed / "logs" / "attempt-0001" / "worker-0.log").read_text("utf-8")
    assert "4 x cpu, 2 process(es)" in log


class Faults:
    """Strikes when the run has come to a step; each fault once, and not while one is mended."""

    def __init__(self, run: Path, emulation: Emulation) -> None:
        self.run, self.emulation = run, emulation
        self.struck: list[str] = []
        self._plan = [(5, "kill"), (15, "terminate"), (25, "stop"), (40, "preempt")]
        self._restarts = 0

    def __call__(self, seconds: float) -> None:
        time.sleep(seconds)
        beats = [b for b in markers.look(self.run)[0].beats if b.state == markers.TRAINING]
        if len(beats) < 2 or not self._plan:
            return
        step, fault = self._plan[0]
        ready = min(beat.step for beat in beats) >= step
        if ready and min(beat.restarts for beat in beats) >= self._restarts:
            self._plan.pop(0)
            self.struck.append(fault)
            self._restarts += fault != "preempt"
            self._strike(fault, beats)

    def _strike(self, fault: str, beats: list[Beat]) -> None:
        if fault == "preempt":
            self.emulation.cloud.preempt(read_launch(self.run).name)
            return
        victim, number = {
            "kill": (1, signal.SIGKILL),
            "terminate": (0, signal.SIGTERM),
            "stop": (1, signal.SIGSTOP),
        }[fault]
        os.kill(beats[victim].pid, number)


def test_killed_terminated_stopped_and_preempted_it_ends_with_the_same_bits(
    base: RunConfig, undisturbed: Path, emulation: Emulation, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    values = {key.name: getattr(base, key.name) for key in fields(RunConfig)}
    config = on_workers(SubmittedConfig(**values | {"run_dir": str(run)}), 2)
    faults = Faults(run, emulation)
    rehearse(config, emulation, pause=faults)
    assert faults.struck == ["kill", "terminate", "stop", "preempt"]
    first, second = markers.look(run)[0].attempts
    assert (first.ended, second.ended) == ("preempted", "done")
    assert emulation.cloud.state(read_launch(run).name) == ""
    assert emulation.machines.there == {}
    log = "".join(path.read_text("utf-8") for path in (run / "logs").glob("*/*.log"))
    assert "no step was done for 12 seconds" in log  # the peer of the one that was stopped
    assert "does not answer; it is killed" in log  # the one that was stopped
    assert re.search(r"told to stop: step \d+ of 60 is saved", log)
    assert inspected(run)["digest"] == inspected(undisturbed)["digest"]
    for one, other in zip(metrics.read(run), metrics.read(undisturbed), strict=True):
        assert one["step"] == other["step"]
        for name in {"loss", "grad_norm", "eval_mlm_loss"} & one.keys():
            assert one[name] == other[name], one["step"]
    homes = list((tmp_path / "machines").glob("boot-*/*/attributes"))
    assert len(homes) == 4
    for home in homes:
        find = ["find", str(home.parent), "-perm", "/077", "-not", "-type", "l"]
        readable = subprocess.run(find, capture_output=True, text=True, check=True)
        assert readable.stdout == "", "readable for others on a machine"
