"""Training on batches with NaN in them, and the expected results.

``python -m support.nan_batches 7,9 …`` runs ``bert-jax …`` with NaN in the batches of these steps.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import NotFiniteError
from bert_jax.training import metrics
from bert_jax.training.batch import Batch
from bert_jax.training.checkpoint import newest_params
from bert_jax.training.checksums import digest
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.rollback import RollbackGuard
from bert_jax.training.state import TrainState, init_state
from bert_jax.training.step import Steps
from pipelines import pretraining
from pipelines.commands import cli
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store


class NanBatchData(PretrainingData):
    """Training data with NaN in the weights of some batches."""

    bad_steps: frozenset[int] = frozenset()

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """Return the batch of update number `step`, counted from 0."""
        batch = super().batch_at(step, rows)
        if step + 1 in self.bad_steps:
            weights = np.full_like(batch.arrays["mlm_weights"], np.nan)
            batch = replace(batch, arrays=batch.arrays | {"mlm_weights": weights})
        return batch


InjectNan = Callable[..., None]


@pytest.fixture
def inject_nan(monkeypatch: pytest.MonkeyPatch) -> InjectNan:
    """Return a function that puts NaN into the batches of these steps."""
    monkeypatch.setattr(pretraining, "PretrainingData", NanBatchData)
    return lambda *steps: monkeypatch.setattr(NanBatchData, "bad_steps", frozenset(steps))


@pytest.fixture
def rollback_config(config: RunConfig) -> RunConfig:
    """Return the config of conftest with rollback and a log line every 7 steps."""
    return replace(config, train=replace(config.train, on_nonfinite="rollback", log_every=7))


def partitioner_for(config: RunConfig, count: int = 1) -> Partitioner:
    return Partitioner.of(config.parallel, devices()[:count])


@cache
def update(config: RunConfig, count: int) -> Any:
    """Return the compiled update, which tests share."""
    partitioner, steps = partitioner_for(config, count), Steps.of(config)
    return partitioner.train_step(steps)


def reference_digest(config: RunConfig, store: Store, skipped: set[int], count: int = 1) -> str:
    """Return the digest of a run without the trainer that skips these steps."""
    config = replace(config, run_dir="-")
    partitioner, steps, step = (
        partitioner_for(config, count),
        Steps.of(config),
        update(config, count),
    )
    data = PretrainingData(store, config)
    state = partitioner.build(lambda: init_state(config.model, steps.optimizer, config.seed))
    for number in range(1, config.steps + 1):
        if number in skipped:
            skipped_step = jax.device_put(np.int32(number), partitioner.replicated)
            state = TrainState(skipped_step, state.params, state.opt_state)
            continue
        state, _ = step(state, partitioner.shard_batch(data.batch_at(number - 1).arrays))
    return digest(state.params)


def final_digest(config: RunConfig) -> str:
    """Return the digest of the newest checkpoint, which must be that of the last step."""
    run, partitioner = Path(config.run_dir), partitioner_for(config)
    steps = Steps.of(config)

    def make() -> TrainState:
        return init_state(config.model, steps.optimizer, config.seed)

    params, meta = newest_params(run, lambda meta: partitioner.abstract_state(make).params)
    assert meta.step == config.steps
    return digest(params)


def skipped_steps(config: RunConfig) -> list[int]:
    return [line["step"] for line in metrics.read(Path(config.run_dir)) if "skipped" in line]


def stop_during_rollback(this_process: bool) -> None:
    """Send SIGTERM to one process during its rollback; all processes wait until JAX notices.

    JAX checks for signals once a second, and a short run could end before.
    """
    roll_back = RollbackGuard.roll_back

    def interrupted(guard: RollbackGuard, base: int, error: NotFiniteError) -> None:
        if this_process:
            os.kill(os.getpid(), signal.SIGTERM)
        roll_back(guard, base, error)
        time.sleep(3)

    RollbackGuard.roll_back = interrupted  # type: ignore[method-assign]


if __name__ == "__main__":
    if rank := os.environ.get("STOP_DURING_ROLLBACK"):
        stop_during_rollback(rank == os.environ.get("JAX_PROCESS_ID", "0"))
    NanBatchData.bad_steps = frozenset(map(int, sys.argv.pop(1).split(",")))
    pretraining.PretrainingData = NanBatchData  # type: ignore[misc]
    cli.main()
