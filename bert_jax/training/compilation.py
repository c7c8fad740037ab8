"""Compile the update of a phase."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from bert_jax.config.phases import Phase
from bert_jax.runtime.console import say
from bert_jax.training.device_form import DeviceForm
from bert_jax.training.experiment import Experiment
from bert_jax.training.state import TrainState
from bert_jax.training.step import DeviceBatch, Metrics

Compiled = Callable[[TrainState, DeviceBatch], tuple[TrainState, Metrics]]


def compiled(experiment: Experiment, form: DeviceForm, phase: Phase) -> Compiled:
    """Return the compiled update, which donates the state.

    Prints the size of a step and the memory that it needs.
    """
    B, T = phase.batch_size, phase.length
    say(f"phase: {phase.steps:,} steps of {B} x {T} tokens ({B * T:,} tokens per step)")
    state = form.abstract()
    lowered = form.partitioner.train_step(experiment.steps).lower
    programs: dict[tuple[int, ...], Any] = {}
    for shapes in experiment.data.shapes(T, B):
        batch = form.partitioner.abstract_batch(shapes)
        programs[batch["token_ids"].shape] = step = lowered(state, batch).compile()
    # The last one has the largest batch.
    memory = step.memory_analysis()
    gib = [x / 2**30 for x in (memory.argument_size_in_bytes, memory.temp_size_in_bytes)]
    say(f"memory per device: {gib[0]:.2f} GiB arguments + {gib[1]:.2f} GiB temporary")
    return lambda state, batch: programs[batch["token_ids"].shape](state, batch)


def compiler(experiment: Experiment, form: DeviceForm) -> Callable[[Phase], Compiled]:
    """Return phase -> compiled step; a rollback into the newest phase does not compile again."""
    return lru_cache(maxsize=1)(partial(compiled, experiment, form))
