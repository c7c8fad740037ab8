"""Non-finite losses, gradients and states: the run stops, or rolls back and skips batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import BadInputError, NotFiniteError
from bert_jax.training import compilation, metrics
from bert_jax.training.checkpoint import Checkpoints, Meta, newest_meta, save_params
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.rollback import RollbackGuard
from bert_jax.training.state import TrainState
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.pretraining import pretrain
from support.nan_batches import (
    InjectNan,
    final_digest,
    partitioner_for,
    reference_digest,
    skipped_steps,
)

STEPS = 20  # a checkpoint every 5, an evaluation every 10

# Decisions.


def test_first_skip_the_batch_then_all_since_the_checkpoint_then_stop(
    capsys: pytest.CaptureFixture[str],
) -> None:
    guard = RollbackGuard()
    guard.roll_back(5, NotFiniteError("loss became nan", 7))
    assert guard.skipped == {7}
    stderr = capsys.readouterr().err
    assert stderr == "loss became nan at step 7; rolling back to step 5 and skipping batch 7\n"
    guard.roll_back(5, NotFiniteError("loss became inf", 9))
    assert guard.skipped == {6, 7, 8, 9}
    assert "rolling back to step 5 and skipping batches 6 to 9" in capsys.readouterr().err
    with pytest.raises(NotFiniteError, match=r"became inf at step 10.*did not help") as error:
        guard.roll_back(5, NotFiniteError("loss became inf", 10))
    assert error.value.exit_code == 78
    assert "optimizer.learning_rate" in str(error.value)


def test_a_newer_checkpoint_resets_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    guard = RollbackGuard()
    for base in (0, 5, 10, 15):
        guard.roll_back(base, NotFiniteError("loss became nan", base + 2))
    assert guard.skipped == {2, 7, 12, 17}
    # Steps that are repeated because newer checkpoints are damaged stay skipped.
    guard.roll_back(10, NotFiniteError("loss became nan", 13))
    assert guard.skipped == {2, 7, 12, 13, 17}


# Non-finite batches.


def test_by_default_the_run_stops_without_saving_it(
    config: RunConfig, inject_nan: InjectNan
) -> None:
    inject_nan(7)
    with pytest.raises(
        NotFiniteError,
        match=r"loss and grad_norm became nan between step 6 and step 7; this state was not saved\."
        r" Lower optimizer\.learning_rate or increase optimizer\.warmup_steps",
    ) as error:
        pretrain(config, partitioner_for(config))
    assert isinstance(error.value, BadInputError)
    meta = newest_meta(Path(config.run_dir))
    assert meta is not None
    assert meta.step == 5
    assert max(line["step"] for line in metrics.read(Path(config.run_dir))) == 6


def test_stopping_checks_only_logged_and_saved_steps(
    config: RunConfig, inject_nan: InjectNan
) -> None:
    config = replace(config, train=replace(config.train, log_every=100))
    inject_nan(2)
    with pytest.raises(NotFiniteError, match="between step 0 and step 5"):
        pretrain(config, partitioner_for(config))
    assert newest_meta(Path(config.run_dir)) is None


@pytest.mark.parametrize(
    ("mapping", "shard_state", "count"), [("jit", False, 1), ("jit", True, 2), ("pmap", False, 2)]
)
def test_a_rollback_equals_the_run_without_the_batch(
    rollback_config: RunConfig,
    store: Store,
    inject_nan: InjectNan,
    capsys: pytest.CaptureFixture[str],
    mapping: Any,
    shard_state: bool,
    count: int,
) -> None:
    parallel = replace(rollback_config.parallel, mapping=mapping, shard_state=shard_state)
    rollback_config = replace(rollback_config, parallel=parallel)
    inject_nan(8)
    pretrain(rollback_config, partitioner_for(rollback_config, count))
    stderr = capsys.readouterr().err
    assert "nan at step 8; rolling back to step 5 and skipping batch 8" in stderr
    assert f"{STEPS} of {STEPS} steps" in stderr
    assert stderr.count("phase:") == 1  # no recompilation
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {8}, count)
    assert skipped_steps(rollback_config) == [8]


def test_the_log_has_every_step_once_and_counts_trained_tokens(
    rollback_config: RunConfig, inject_nan: InjectNan, store: Store
) -> None:
    rollback_config = replace(rollback_config, train=replace(rollback_config.train, log_every=1))
    inject_nan(8)
    pretrain(rollback_config, partitioner_for(rollback_config))
    lines = metrics.read(Path(rollback_config.run_dir))
    assert [line["step"] for line in lines if "eval_loss" not in line] == list(range(1, STEPS + 1))
    assert [line for line in lines if "loss" not in line and "eval_loss" not in line] == [
        {"step": 8, "skipped": 1}
    ]
    data = PretrainingData(store, rollback_config)
    counts = [data.batch_at(step - 1).tokens * (step != 8) for step in range(1, STEPS + 1)]
    tokens = np.cumsum(counts)
    trained = [line for line in lines if "loss" in line]
    assert [line["tokens"] for line in trained] == [t for s, t in enumerate(tokens, 1) if s != 8]
    assert [line["seconds"] for line in trained] == sorted(line["seconds"] for line in trained)
    meta = newest_meta(Path(rollback_config.run_dir))
    assert meta is not None
    assert meta.tokens == tokens[-1]


@pytest.mark.parametrize(
    ("bad", "skipped"),
    [
        ({1}, {1}),  # before any checkpoint
        ({5}, {5}),  # a save follows
        ({10}, {10}),  # an evaluation follows
        ({STEPS}, {STEPS}),
        ({7, 9}, {6, 7, 8, 9}),
        ({2, 4}, {1, 2, 3, 4}),
        ({7, 12, 17}, {7, 12, 17}),
        ({6, 10}, {6, 7, 8, 9, 10}),
    ],
    ids=str,
)
def test_bad_batches_at_any_step(
    rollback_config: RunConfig,
    store: Store,
    inject_nan: InjectNan,
    bad: set[int],
    skipped: set[int],
) -> None:
    inject_nan(*bad)
    pretrain(rollback_config, partitioner_for(rollback_config))
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, skipped)
    assert skipped_steps(rollback_config) == sorted(skipped)


def test_three_bad_batches_after_one_checkpoint_are_too_many(
    rollback_config: RunConfig, inject_nan: InjectNan, capsys: pytest.CaptureFixture[str]
) -> None:
    rollback_config = replace(
        rollback_config, checkpoint=replace(rollback_config.checkpoint, every=10)
    )
    inject_nan(12, 14, 16)
    with pytest.raises(NotFiniteError, match=r"at step 16.* step 10 .*did not help") as error:
        pretrain(rollback_config, partitioner_for(rollback_config))
    assert error.value.exit_code == 78
    assert capsys.readouterr().err.count("back to step 10") == 2
    meta = newest_meta(Path(rollback_config.run_dir))
    assert meta is not None
    assert meta.step == 10


# Non-finite states.


@dataclass
class StateFault:
    """Corrupts the state after an update, a number of times."""

    step: int
    times: int
    corrupt: Callable[[TrainState], TrainState]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiled = compilation.compiled

        def corrupted(*arguments: Any) -> Any:
            compiled_step = compiled(*arguments)
            done = 0

            def run(state: TrainState, batch: Any) -> Any:
                nonlocal done
                with jax.transfer_guard("allow"):
                    step = int(state.step) + 1
                state, metrics = compiled_step(state, batch)
                if step == self.step and done < self.times:
                    done += 1
                    with jax.transfer_guard("allow"):
                        state = self.corrupt(state)
                return state, metrics

            return run

        monkeypatch.setattr(compilation, "compiled", corrupted)


def with_parts(state: TrainState, **parts: dict[str, Any]) -> TrainState:
    """Replace arrays in parts of the encoder."""
    bert = state.params["bert"]
    changed = {name: bert[name] | arrays for name, arrays in parts.items()}
    return replace(state, params=state.params | {"bert": bert | changed})


def infinite_kernel(state: TrainState) -> TrainState:
    kernel = state.params["bert"]["pooler"]["kernel"].at[3, 4].set(jnp.inf)
    return with_parts(state, pooler={"kernel": kernel})


def nan_in_unused_position(state: TrainState) -> TrainState:
    """Sequences have 32 tokens, the network 64 positions."""
    position = state.params["bert"]["embeddings"]["position"].at[63].set(jnp.nan)
    return with_parts(state, embeddings={"position": position})


@pytest.mark.parametrize("step", [7, 9, 10])
def test_a_state_that_is_corrupted_once_is_restored(
    rollback_config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The next update, an evaluation or a save detects it."""
    StateFault(step, 1, infinite_kernel).install(monkeypatch)
    pretrain(rollback_config, partitioner_for(rollback_config))
    detected = min(step + 1, 10)
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {detected})
    assert skipped_steps(rollback_config) == [detected]


def test_an_update_that_always_corrupts_the_state_is_skipped_with_those_before_it(
    rollback_config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateFault(7, 1000, infinite_kernel).install(monkeypatch)
    pretrain(rollback_config, partitioner_for(rollback_config))
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {6, 7, 8, 9})


@pytest.mark.parametrize("mode", ["stop", "rollback"])
def test_an_unused_embedding_is_checked_before_it_is_saved(
    config: RunConfig,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: Any,
) -> None:
    config = replace(config, train=replace(config.train, on_nonfinite=mode))
    StateFault(7, 1, nan_in_unused_position).install(monkeypatch)
    problem = "params/bert/embeddings/position is not finite at step 10"
    if mode == "stop":
        with pytest.raises(NotFiniteError, match=f"{problem}; this state was not saved"):
            pretrain(config, partitioner_for(config))
        meta = newest_meta(Path(config.run_dir))
        assert meta is not None
        assert meta.step == 5
        return
    pretrain(config, partitioner_for(config))
    assert f"{problem}; rolling back to step 5 and skipping batch 10" in capsys.readouterr().err
    assert final_digest(config) == reference_digest(config, store, {10})


def test_a_learning_rate_that_is_too_high_stops_the_run_after_two_rollbacks(
    rollback_config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = replace(rollback_config.optimizer, learning_rate=1e38, warmup_steps=0)
    rollback_config = replace(rollback_config, optimizer=optimizer)
    with pytest.raises(NotFiniteError, match=r"Rolling back to step 0 .*did not help"):
        pretrain(rollback_config, partitioner_for(rollback_config))
    assert capsys.readouterr().err.count("back to step 0") == 2
    assert newest_meta(Path(rollback_config.run_dir)) is None


def test_overflow_of_bfloat16_matmuls(
    rollback_config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite parameters that are too large for the computation."""

    def huge(state: TrainState) -> TrainState:
        embeddings = jax.tree.map(lambda x: x * 1e30, state.params["bert"]["embeddings"])
        return with_parts(state, embeddings=embeddings)

    rollback_config = replace(
        rollback_config, model=replace(rollback_config.model, dtype="bfloat16")
    )
    StateFault(12, 1, huge).install(monkeypatch)
    pretrain(rollback_config, partitioner_for(rollback_config))
    assert final_digest(rollback_config) == reference_digest(rollback_config, store, {13})


@pytest.mark.parametrize("part", ["params", "opt_state"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shard_state", [False, True])
def test_no_mesh_saves_a_non_finite_value(
    tmp_path: Path, part: str, value: float, shard_state: bool
) -> None:
    partitioner = Partitioner(devices(), shard_state=shard_state)

    def make() -> TrainState:
        table = jnp.ones((64, 8)).at[37, 3].set(value)
        good = {"a": jnp.ones((16, 4)), "b": jnp.zeros(3, jnp.bfloat16), "n": jnp.int32(7)}
        trees = {"params": dict(good), "opt_state": dict(good)}
        trees[part]["table"] = table
        return TrainState(step=jnp.int32(3), **trees)

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(NotFiniteError, match=f"{part}/table is not finite at step 3"):
        checkpoints.save(partitioner.build(make), Meta(step=3))
    checkpoints.wait()
    checkpoints.close()
    assert newest_meta(tmp_path) is None


def test_parameters_alone_are_checked(tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match="params/x is not finite"):
        save_params(tmp_path, {"a": jnp.ones(3), "x": jnp.array([1.0, -jnp.inf])}, Meta())
    assert newest_meta(tmp_path) is None
