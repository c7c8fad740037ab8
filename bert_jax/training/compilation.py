"""Compile the update of a phase."""

from __future__ import annotations

from typing import Any

from bert_jax.config.phases import Phase
from bert_jax.runtime.console import say
from bert_jax.training.experiment import Experiment
from bert_jax.training.partitioner import Partitioner


def compiled(experiment: Experiment, partitioner: Partitioner, phase: Phase) -> Any:
    """Return the compiled (state, batch) -> (state, metrics), which donates the state.

    Prints the size of a step and the memory that it needs.
    """
    B, T = phase.batch_size, phase.length
    say(f"phase: {phase.steps:,} steps of {B} x {T} tokens ({B * T:,} tokens per step)")
    state = partitioner.abstract_state(experiment.init_fn)
    batch = partitioner.abstract_batch(experiment.data.shape(T, B))
    step = partitioner.train_step(experiment.steps).lower(state, batch).compile()
    memory = step.memory_analysis()
    gib = [x / 2**30 for x in (memory.argument_size_in_bytes, memory.temp_size_in_bytes)]
    say(f"memory per device: {gib[0]:.2f} GiB arguments + {gib[1]:.2f} GiB temporary")
    return step


class CompiledSteps:
    """The compiled step of the newest phase; a rollback into the same phase reuses it."""

    def __init__(self, experiment: Experiment, partitioner: Partitioner) -> None:
        self._experiment, self._partitioner = experiment, partitioner
        self._phase: Phase | None = None
        self._step: Any = None

    def of(self, phase: Phase) -> Any:
        """Return the step of a phase; compile it unless it is that of the call before."""
        if phase != self._phase:
            self._phase, self._step = phase, compiled(self._experiment, self._partitioner, phase)
        return self._step
