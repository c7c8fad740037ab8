"""Rollbacks that are interrupted, on two processes and in fine-tuning."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import NotFiniteError, PreemptedError
from bert_jax.training import metrics, preemption
from bert_jax.training.checkpoint import Checkpoints, newest_meta
from bert_jax.training.preemption import StopRequests
from bert_jax.training.rollback import RollbackGuard
from pipelines.data.store.token_store import Store
from pipelines.pretraining import pretrain
from pipelines.tasks.batches import TaskBatches
from support.commands import ROOT, command, refused, write_config
from support.finetuned import options
from support.finetuned import run as finetuned
from support.jobs import assert_same_curve, start_two, wait_for_all
from support.nan_batches import (
    InjectNan,
    final_digest,
    partitioner_for,
    reference_digest,
    skipped_steps,
)

# Interruptions.


class KilledError(Exception):
    pass


def killer(step: int, times: int) -> Callable[[int], None]:
    """Return a callback that ends a run without a save when `step` occurs for the nth time."""
    occurrences = 0

    def on_step(done: int) -> None:
        nonlocal occurrences
        occurrences += done == step
        if occurrences == times and done == step:
            raise KilledError

    return on_step


@pytest.mark.parametrize("step", [5, 8])
def test_a_run_killed_after_a_rollback_skips_the_same_batches(
    rollback_config: RunConfig, store: Store, inject_nan: InjectNan, step: int
) -> None:
    inject_nan(7, 9)
    with pytest.raises(KilledError):
        pretrain(rollback_config, partitioner_for(rollback_config), killer(step, 2))
    pretrain(rollback_config, partitioner_for(rollback_config))
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {6, 7, 8, 9})
    assert skipped_steps(rollback_config) == [6, 7, 8, 9]


def test_a_signal_during_a_rollback_saves_the_next_step(
    rollback_config: RunConfig, store: Store, inject_nan: InjectNan, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_back = RollbackGuard.roll_back

    def interrupted(guard: RollbackGuard, base: int, error: NotFiniteError) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        roll_back(guard, base, error)

    monkeypatch.setattr(RollbackGuard, "roll_back", interrupted)
    inject_nan(8)
    with pytest.raises(PreemptedError, match="step 6 of 20 is saved"):
        pretrain(rollback_config, partitioner_for(rollback_config))
    monkeypatch.setattr(RollbackGuard, "roll_back", roll_back)
    pretrain(rollback_config, partitioner_for(rollback_config))
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {8})


def test_a_signal_at_a_non_finite_step_saves_an_earlier_one(
    rollback_config: RunConfig, store: Store, inject_nan: InjectNan
) -> None:
    """The loss of step 8 is not yet known when step 9 is due to be saved."""

    def on_step(step: int) -> None:
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    inject_nan(8)
    with pytest.raises(PreemptedError, match="step 6 of 20 is saved"):
        pretrain(rollback_config, partitioner_for(rollback_config), on_step)
    pretrain(rollback_config, partitioner_for(rollback_config))
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {8})


def test_a_stop_request_of_jax_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX reports a request once; the step at which it does may be rolled back."""
    agreed = iter([False, True, False, False])
    monkeypatch.setattr(preemption, "stop_agreed", lambda times: next(agreed))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with StopRequests() as requests:
        assert [requests.agreed() for _ in range(4)] == [False, True, True, True]


def test_a_rollback_skips_a_damaged_checkpoint(
    rollback_config: RunConfig,
    store: Store,
    inject_nan: InjectNan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The newest checkpoint is damaged between its save and the rollback."""
    restore = Checkpoints.restore

    def damaged(checkpoints: Checkpoints, *arguments: Any) -> Any:
        files = [path for path in (checkpoints.folder / "10/params").rglob("*") if path.is_file()]
        if files:
            max(files, key=lambda path: path.stat().st_size).write_bytes(b"x")
        return restore(checkpoints, *arguments)

    monkeypatch.setattr(Checkpoints, "restore", damaged)
    inject_nan(3, 12)
    pretrain(rollback_config, partitioner_for(rollback_config))
    stderr = capsys.readouterr().err
    assert "checkpoint 10 is damaged" in stderr
    assert "resuming from checkpoint 5; repeating 5 steps" in stderr
    assert "at step 12; rolling back to step 5 and skipping batch 12" in stderr
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {3, 12})


def test_a_profile_and_its_steps_survive(rollback_config: RunConfig, inject_nan: InjectNan) -> None:
    inject_nan(8)
    pretrain(replace(rollback_config, profile="6:9"), partitioner_for(rollback_config))
    assert list(Path(rollback_config.run_dir).glob("profile/**/*.xplane.pb"))


def test_on_nonfinite_may_change_between_sessions(
    config: RunConfig, store: Store, inject_nan: InjectNan, capsys: pytest.CaptureFixture[str]
) -> None:
    inject_nan(8)
    with pytest.raises(NotFiniteError):
        pretrain(config, partitioner_for(config))
    rollback_config = replace(config, train=replace(config.train, on_nonfinite="rollback"))
    pretrain(rollback_config, partitioner_for(rollback_config))
    stderr = capsys.readouterr().err
    assert "changed since step 5: train.on_nonfinite: stop -> rollback" in stderr
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {8})


# Fine-tuning, and several processes.


@pytest.mark.parametrize("bad", [3, 9], ids=["before a checkpoint", "after one"])
def test_fine_tuning_rolls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """Roll back to the weights of ``init`` or to a checkpoint, as without the batch."""
    batch_at = TaskBatches.batch_at

    def nan_batch_at(data: TaskBatches, step: int, rows: slice = slice(None)) -> Any:
        batch = batch_at(data, step, rows)
        for array in batch.arrays.values():
            if step + 1 == bad and array.dtype == np.float32:
                array.fill(np.nan)
        return batch

    def results(folder: Path) -> tuple[Any, str]:
        folder.mkdir()
        run, short = folder / "run", {"train__epochs": 2, "train__on_nonfinite": "rollback"}
        eval_results = finetuned(options("classification", folder, run, **short))
        skipped = [line for line in metrics.read(run) if "skipped" in line]
        assert skipped == [{"step": bad, "skipped": 1}]
        return eval_results, (run / "validation_predictions.jsonl").read_text("utf-8")

    with monkeypatch.context() as patched:
        patched.setattr(RollbackGuard, "__init__", lambda guard: vars(guard).update(skipped={bad}))
        expected = results(tmp_path / "without")
    monkeypatch.setattr(TaskBatches, "batch_at", nan_batch_at)
    assert results(tmp_path / "rollback") == expected


def run_on_two(config: RunConfig, bad: str, folder: Path, **variables: str) -> list[Any]:
    """Run on two processes of two devices, with NaN in these batches."""
    script = [*command()[:3], "-m", "support.nan_batches", bad, "pretrain", "--config"]
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"PYTHONPATH": str(ROOT / "tests"), **variables}.items():
            patched.setenv(name, value)
        return wait_for_all(start_two([*script, str(write_config(config, folder))]))


@pytest.mark.full
def test_two_processes_roll_back_together(
    rollback_config: RunConfig, inject_nan: InjectNan, tmp_path: Path
) -> None:
    """Roll back to the start, to a checkpoint, and twice to the same one, as one process does."""
    rollback_config = replace(rollback_config, train=replace(rollback_config.train, log_every=1))
    results = run_on_two(rollback_config, "2,12,14", tmp_path)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    for line in (
        "at step 2; rolling back to step 0 and skipping batch 2",
        "at step 12; rolling back to step 10 and skipping batch 12",
        "at step 14; rolling back to step 10 and skipping batches 11 to 14",
    ):
        assert line in results[0].stderr
    assert skipped_steps(rollback_config) == [2, 11, 12, 13, 14]
    single = replace(rollback_config, run_dir=str(tmp_path / "single"))
    inject_nan(2, 12, 14)
    pretrain(single, partitioner_for(single, 8))
    assert_same_curve(Path(rollback_config.run_dir), Path(single.run_dir))


@pytest.mark.full
def test_two_processes_give_up_together(rollback_config: RunConfig, tmp_path: Path) -> None:
    rollback_config = replace(
        rollback_config, checkpoint=replace(rollback_config.checkpoint, every=10)
    )
    for result in run_on_two(rollback_config, "12,14,16", tmp_path):
        refused(result, 78, "at step 16", "Rolling back to step 10", "did not help")


@pytest.mark.full
def test_sigterm_to_one_of_two_processes_during_a_rollback(
    rollback_config: RunConfig, tmp_path: Path
) -> None:
    """They agree on a step before the end, although their step numbers decreased."""
    results = run_on_two(rollback_config, "9", tmp_path, STOP_DURING_ROLLBACK="1")
    assert [result.returncode for result in results] == [75, 75], results[0].stderr
    meta = newest_meta(Path(rollback_config.run_dir))
    assert meta is not None
    assert 5 < meta.step < rollback_config.steps
    results = run_on_two(rollback_config, "9", tmp_path)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert skipped_steps(rollback_config) == [9]
