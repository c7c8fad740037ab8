"""Runs in their own processes: killed, interrupted, without disk space or devices."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bert_jax.config.run import RunConfig
from bert_jax.training import metrics
from support.commands import (
    inspected,
    refused,
    run_process,
    run_python,
    small_disk,
    start,
    write_config,
)
from support.waiting import wait_until

STEPS = 40


@pytest.fixture
def arguments(two_phases: RunConfig, tmp_path: Path) -> tuple[str, ...]:
    """Return the command of `two_phase_run` in another folder."""
    config = write_config(replace(two_phases, run_dir=str(tmp_path / "run")), tmp_path)
    return ("pretrain", "--config", str(config))


def test_the_run_folder_is_complete(two_phase_run: Path, two_phases: RunConfig) -> None:
    lines = metrics.read(two_phase_run)
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, STEPS + 1))
    assert set(trained[0]) == {
        "step", "loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "grad_norm",
        "learning_rate", "tokens", "tokens_per_second", "mfu", "seconds",
    }  # fmt: skip
    assert trained[-1]["mfu"] is None
    assert [line["step"] for line in lines if "eval_loss" in line] == [10, 20, 30, 40]
    assert trained[-1]["tokens"] > trained[0]["tokens"] > 4 * 5
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert sorted(path.name for path in (two_phase_run / "checkpoints").iterdir()) == ["36", "40"]
    assert (two_phase_run / "tokenizer" / "sentencepiece.model").is_file()
    assert list((two_phase_run / "tensorboard").glob("events.*"))
    saved = yaml.safe_load((two_phase_run / "config.yaml").read_text("utf-8"))
    assert [phase["steps"] for phase in saved["phases"]] == [24, 16]
    assert saved["optimizer"]["learning_rate"] == two_phases.optimizer.learning_rate


def steps_done(run: Path) -> int:
    return max((line["step"] for line in metrics.read(run) if "loss" in line), default=0)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(3, marks=pytest.mark.full, id="before the first checkpoint"),
        pytest.param(30, id="in the second phase"),
    ],
)
def test_a_killed_run_resumes_with_identical_results(
    two_phase_run: Path, arguments: tuple[str, ...], tmp_path: Path, step: int
) -> None:
    run = tmp_path / "run"
    process = start(*arguments)
    wait_until(lambda: steps_done(run) >= step, process)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.communicate()
    reached = steps_done(run)
    assert reached < STEPS
    again = run_process(*arguments)
    assert again.returncode == 0, again.stderr
    assert inspected(run)["digest"] == inspected(two_phase_run)["digest"]
    # The log has every step once, with the same losses.
    losses = [(x["step"], x["loss"], x["tokens"]) for x in metrics.read(run) if "loss" in x]
    assert losses == [
        (x["step"], x["loss"], x["tokens"]) for x in metrics.read(two_phase_run) if "loss" in x
    ]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.full)]
)
def test_an_interrupted_run_saves_and_resumes(
    two_phase_run: Path, arguments: tuple[str, ...], tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = start(*arguments, "--checkpoint.every", "1000")
    wait_until(lambda: steps_done(run) >= 7, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    (saved,) = (int(path.name) for path in (run / "checkpoints").iterdir())
    assert f"step {saved} of {STEPS} is saved" in stderr.splitlines()[-1]
    assert saved >= 7
    again = run_process(*arguments)
    assert again.returncode == 0, again.stderr
    assert f"resuming at step {saved}" in again.stderr
    assert "changed since step" in again.stderr
    assert "checkpoint.every: 1000 -> 4" in again.stderr
    assert inspected(run)["digest"] == inspected(two_phase_run)["digest"]


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_step_ends_the_process(
    arguments: tuple[str, ...], number: int
) -> None:
    process = start(*arguments)
    assert process.stderr is not None
    assert "1 x cpu" in process.stderr.readline()  # now it handles signals and compiles the step
    process.send_signal(number)
    output = process.communicate(timeout=60)[1]
    assert process.returncode == 75, output
    assert "Traceback" not in output


def test_a_missing_device_is_reported_in_one_line(arguments: tuple[str, ...]) -> None:
    for platform in ("tpu", "cuda", "none-such"):
        refused(run_process(*arguments, JAX_PLATFORMS=platform), 69, "JAX_PLATFORMS=cpu")


@pytest.mark.full
def test_a_full_disk_costs_no_saved_step(
    two_phase_run: Path, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "size=18m") as disk:
        run_dir = ("--run_dir", f"{disk}/run")
        refused(run_process(*arguments, *run_dir), 1, "disk is full", "is safe", "same command")
        names = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
        assert [name for name in names if name.isdigit()]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        again = run_process(*arguments, *run_dir)
        assert again.returncode == 0, again.stderr
        assert "resuming at step" in again.stderr
        assert inspected(disk / "run")["digest"] == inspected(two_phase_run)["digest"]


@pytest.mark.full
def test_a_read_only_folder_is_reported_in_one_line(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "locked", "ro") as disk:
        refused(run_process(*arguments, "--run_dir", f"{disk}/run"), 78, str(disk), "ead-only")


@pytest.mark.parametrize(
    "code", ["import pipelines.commands.cli as c; c.usage()", "import pipelines.settings"]
)
def test_help_and_configs_need_no_jax(code: str) -> None:
    script = f"import sys; {code}; print({{'jax', 'numpy', 'flax'}} & set(sys.modules))"
    result = run_python(script)
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.full
def test_the_second_start_uses_the_compilation_cache(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    short = (*arguments, "--phases", "[{length: 16, steps: 2}]")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    assert run_process(*short, "--run_dir", tmp_path / "a", **cache).returncode == 0
    programs = set((tmp_path / "cache").glob("*-cache"))
    assert any(path.name.startswith("jit_train-") for path in programs)
    second = run_process(*short, "--run_dir", tmp_path / "b", JAX_LOGGING_LEVEL="DEBUG", **cache)
    assert second.returncode == 0
    assert "Persistent compilation cache hit for 'jit_train'" in second.stderr
    assert "MISS" not in second.stderr  # not even for a small program
    assert set((tmp_path / "cache").glob("*-cache")) == programs
    assert inspected(tmp_path / "a")["digest"] == inspected(tmp_path / "b")["digest"]
