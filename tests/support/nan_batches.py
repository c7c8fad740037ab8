"""Training on batches with NaN in them, and what it must come to.

`bert-jax` itself with NaN in the batches of these steps: python -m support.nan_batches 7,9 …
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


class PoisonedData(PretrainingData):
    """Training data with NaN in the weights of the batches of some steps."""

    bad: frozenset[int] = frozenset()

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of update number `step`, counted from 0 as there."""
        batch = super().batch_at(step, rows)
        if step + 1 in self.bad:
            weights = np.full_like(batch.arrays["mlm_weights"], np.nan)
            batch = replace(batch, arrays=batch.arrays | {"mlm_weights": weights})
        return batch


Poison = Callable[..., None]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Puts NaN into the batches of these steps."""
    monkeypatch.setattr(pretraining, "PretrainingData", PoisonedData)
    return lambda *steps: monkeypatch.setattr(PoisonedData, "bad", frozenset(steps))


@pytest.fixture
def rolling(config: RunConfig) -> RunConfig:
    """The run of conftest with rollback; a line of the log only every 7 steps."""
    return replace(config, train=replace(config.train, on_nonfinite="rollback", log_every=7))


def layout_of(config: RunConfig, count: int = 1) -> Partitioner:
    return Partitioner.of(config.parallel, devices()[:count])


@cache
def update(config: RunConfig, count: int) -> Any:
    """The compiled update, which many tests make use of."""
    partitioner, steps = layout_of(config, count), Steps.of(config)
    return partitioner.train_step(steps)


def reference(config: RunConfig, store: Store, skipped: set[int], count: int = 1) -> str:
    """The digest of a run made by hand that leaves out these steps."""
    config = replace(config, run_dir="-")
    partitioner, steps, step = layout_of(config, count), Steps.of(config), update(config, count)
    data = PretrainingData(store, config)
    state = partitioner.build(lambda: init_state(config.model, steps.optimizer, config.seed))
    for number in range(1, config.steps + 1):
        if number in skipped:
            counted = jax.device_put(np.int32(number), partitioner.replicated)
            state = TrainState(counted, state.params, state.opt_state)
            continue
        state, _ = step(state, partitioner.shard_batch(data.batch_at(number - 1).arrays))
    return digest(state.params)


def reached(config: RunConfig) -> str:
    """The digest of the newest checkpoint, which is that of the last step."""
    run, partitioner = Path(config.run_dir), layout_of(config)
    steps = Steps.of(config)

    def make() -> TrainState:
        return init_state(config.model, steps.optimizer, config.seed)

    params, meta = newest_params(run, lambda meta: partitioner.abstract_state(make).params)
    assert meta.step == config.steps
    return digest(params)


def skipped_in(config: RunConfig) -> list[int]:
    return [line["step"] for line in metrics.read(Path(config.run_dir)) if "skipped" in line]


def told_to_end_going_back(this_process: bool) -> None:
    """Sends SIGTERM as soon as it goes back, to one of the processes; both wait until JAX saw it.

    JAX looks for signals once a second, in which a fast machine gets to the end of a short run.
    """
    roll_back = RollbackGuard.roll_back

    def interrupted(guard: RollbackGuard, base: int, error: NotFiniteError) -> None:
        if this_process:
            os.kill(os.getpid(), signal.SIGTERM)
        roll_back(guard, base, error)
        time.sleep(3)

    RollbackGuard.roll_back = interrupted  # type: ignore[method-assign]


if __name__ == "__main__":
    if told := os.environ.get("TOLD_TO_END"):
        told_to_end_going_back(told == os.environ.get("JAX_PROCESS_ID", "0"))
    PoisonedData.bad = frozenset(map(int, sys.argv.pop(1).split(",")))
    pretraining.PretrainingData = PoisonedData  # type: ignore[misc]
    cli.main()
