"""Going back to a checkpoint: killed, told to end, on two processes, in fine-tuning."""

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

# Interrupted.


class KilledError(Exception):
    pass


def killer(step: int, times: int) -> Callable[[int], None]:
    """Ends a run as a kill would, without a save, when it hears of `step` for so many times."""
    heard = 0

    def told(now: int) -> None:
        nonlocal heard
        heard += now == step
        if heard == times and now == step:
            raise KilledError

    return told


@pytest.mark.parametrize("step", [5, 8])
def test_killed_after_a_rollback_it_comes_to_skip_the_same(
    rollback_config: RunConfig, store: Store, inject_nan: InjectNan, step: int
) -> None:
    inject_nan(7, 9)
    with pytest.raises(KilledError):
        pretrain(rollback_config, partitioner_for(rollback_config), killer(step, 2))
    pretrain(rollback_config, partitioner_for(rollback_config))
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {6, 7, 8, 9})
    assert skipped_steps(rollback_config) == [6, 7, 8, 9]


def test_told_to_end_while_it_rolls_back_it_saves_the_next_step(
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


def test_told_to_end_at_a_step_that_is_not_finite_it_saves_another(
    rollback_config: RunConfig, store: Store, inject_nan: InjectNan
) -> None:
    """Nobody has seen yet that step 8 is lost when step 9 is to be saved."""

    def told(step: int) -> None:
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    inject_nan(8)
    with pytest.raises(PreemptedError, match="step 6 of 20 is saved"):
        pretrain(rollback_config, partitioner_for(rollback_config), told)
    pretrain(rollback_config, partitioner_for(rollback_config))
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {8})


def test_a_request_that_jax_tells_once_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes: the step after which it tells may be one that is rolled back."""
    told = iter([False, True, False, False])
    monkeypatch.setattr(preemption, "stop_agreed", lambda times: next(told))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with StopRequests() as requests:
        assert [requests.agreed() for _ in range(4)] == [False, True, True, True]


def test_going_back_over_a_damaged_checkpoint(
    rollback_config: RunConfig,
    store: Store,
    inject_nan: InjectNan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The newest is lost on the disk between its save and the rollback."""
    restore = Checkpoints.restore

    def damaged(checkpoints: Checkpoints, *arguments: Any) -> Any:
        files = [path for path in (checkpoints.folder / "10/params").rglob("*") if path.is_file()]
        if files:
            max(files, key=lambda path: path.stat().st_size).write_bytes(b"x")
        return restore(checkpoints, *arguments)

    monkeypatch.setattr(Checkpoints, "restore", damaged)
    inject_nan(3, 12)
    pretrain(rollback_config, partitioner_for(rollback_config))
    said = capsys.readouterr().err
    assert "checkpoint 10 is damaged" in said
    assert "resuming from checkpoint 5; repeating 5 steps" in said
    assert "at step 12: back to step 5, batch 12 is skipped" in said
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {3, 12})


def test_a_profile_and_its_steps_survive(rollback_config: RunConfig, inject_nan: InjectNan) -> None:
    inject_nan(8)
    pretrain(replace(rollback_config, profile="6:9"), partitioner_for(rollback_config))
    assert list(Path(rollback_config.run_dir).glob("profile/**/*.xplane.pb"))


def test_it_may_change_between_two_sittings(
    config: RunConfig, store: Store, inject_nan: InjectNan, capsys: pytest.CaptureFixture[str]
) -> None:
    inject_nan(8)
    with pytest.raises(NotFiniteError):
        pretrain(config, partitioner_for(config))
    rollback_config = replace(config, train=replace(config.train, on_nonfinite="rollback"))
    pretrain(rollback_config, partitioner_for(rollback_config))
    said = capsys.readouterr().err
    assert "changed since step 5: train.on_nonfinite: stop -> rollback" in said
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {8})


# Fine-tuning, and several processes.


@pytest.mark.parametrize("bad", [3, 9], ids=["before a checkpoint", "after one"])
def test_fine_tuning_goes_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    """To the weights of ``init``, or to a checkpoint; as if the batch had never been learned."""
    batch_at = TaskBatches.batch_at

    def poisoned(data: TaskBatches, step: int, rows: slice = slice(None)) -> Any:
        batch = batch_at(data, step, rows)
        for array in batch.arrays.values():
            if step + 1 == bad and array.dtype == np.float32:
                array.fill(np.nan)
        return batch

    def results(folder: Path) -> tuple[Any, str]:
        folder.mkdir()
        run, short = folder / "run", {"train__epochs": 2, "train__on_nonfinite": "rollback"}
        found = finetuned(options("classification", folder, run, **short))
        skipped = [line for line in metrics.read(run) if "skipped" in line]
        assert skipped == [{"step": bad, "skipped": 1}]
        return found, (run / "validation_predictions.jsonl").read_text("utf-8")

    with monkeypatch.context() as patched:
        patched.setattr(RollbackGuard, "__init__", lambda guard: vars(guard).update(skipped={bad}))
        expected = results(tmp_path / "without")
    monkeypatch.setattr(TaskBatches, "batch_at", poisoned)
    assert results(tmp_path / "poisoned") == expected


def on_two(config: RunConfig, bad: str, folder: Path, **variables: str) -> list[Any]:
    """The run on two processes of two devices, with NaN in these batches."""
    script = [*command()[:3], "-m", "support.nan_batches", bad, "pretrain", "--config"]
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"PYTHONPATH": str(ROOT / "tests"), **variables}.items():
            patched.setenv(name, value)
        return wait_for_all(start_two([*script, str(write_config(config, folder))]))


@pytest.mark.full
def test_two_processes_go_back_together(
    rollback_config: RunConfig, inject_nan: InjectNan, tmp_path: Path
) -> None:
    """To the beginning, to a checkpoint, and twice to one; as one process does."""
    rollback_config = replace(rollback_config, train=replace(rollback_config.train, log_every=1))
    results = on_two(rollback_config, "2,12,14", tmp_path)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    for line in (
        "at step 2: back to step 0, batch 2 is skipped",
        "at step 12: back to step 10, batch 12 is skipped",
        "at step 14: back to step 10, batches 11 to 14 are skipped",
    ):
        assert line in results[0].stderr
    assert skipped_steps(rollback_config) == [2, 11, 12, 13, 14]
    alone = replace(rollback_config, run_dir=str(tmp_path / "alone"))
    inject_nan(2, 12, 14)
    pretrain(alone, partitioner_for(alone, 8))
    assert_same_curve(Path(rollback_config.run_dir), Path(alone.run_dir))


@pytest.mark.full
def test_two_processes_give_up_together(rollback_config: RunConfig, tmp_path: Path) -> None:
    rollback_config = replace(
        rollback_config, checkpoint=replace(rollback_config.checkpoint, every=10)
    )
    for result in on_two(rollback_config, "12,14,16", tmp_path):
        refused(result, 78, "at step 16", "Rolling back to step 10", "did not help")


@pytest.mark.full
def test_of_two_processes_one_is_told_to_end_while_they_go_back(
    rollback_config: RunConfig, tmp_path: Path
) -> None:
    """They agree on a step before the end, although their steps have gone back."""
    results = on_two(rollback_config, "9", tmp_path, STOP_DURING_ROLLBACK="1")
    assert [result.returncode for result in results] == [75, 75], results[0].stderr
    meta = newest_meta(Path(rollback_config.run_dir))
    assert meta is not None
    assert 5 < meta.step < rollback_config.steps
    results = on_two(rollback_config, "9", tmp_path)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert skipped_steps(rollback_config) == [9]
