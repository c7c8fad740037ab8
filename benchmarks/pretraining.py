"""The bert-jax side of the benchmarks of the step."""

from __future__ import annotations

from functools import partial
from typing import Any

from bert_jax.config.run import RunConfig
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import init_state
from bert_jax.training.step import Steps


def initial_state_and_step(config: RunConfig, partitioner: Partitioner) -> tuple[Any, Any]:
    """Return a fresh state on the devices, and the step: (state, batch) -> (state, metrics)."""
    steps = Steps.of(config)
    state = partitioner.build(partial(init_state, config.model, steps.optimizer, 0))
    return state, partitioner.train_step(steps)
