"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from bert_jax.config.phases import Phase, number_of, remaining
from bert_jax.runtime.console import progress, say
from bert_jax.runtime.errors import NotFiniteError
from bert_jax.runtime.paths import at
from bert_jax.training import resume
from bert_jax.training.batch import Batch
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.compilation import compiled
from bert_jax.training.experiment import Experiment
from bert_jax.training.metrics import MetricsLog, evaluated
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.preemption import StopRequests, told_to_stop
from bert_jax.training.profiler import Profile, steps_of
from bert_jax.training.rollback import RollbackGuard
from bert_jax.training.state import parameter_count
from bert_jax.training.step import DeviceBatch, means


class Trainer:
    """One sitting of a run: from its newest checkpoint to its end, or to a request to stop."""

    def __init__(
        self, experiment: Experiment, partitioner: Partitioner, on_step: Callable[[int], None]
    ) -> None:
        """Restores the run, or begins it; `on_step` hears of every step that is done.

        Raises:
            BadInputError: The run began with other settings, or a batch cannot be split.
        """
        self.experiment, self.config, self.partitioner, self.on_step = (
            experiment,
            experiment.config,
            partitioner,
            on_step,
        )
        for phase in self.config.phases:
            partitioner.rows(phase.batch_size, experiment.steps.accumulate)
        traced = steps_of(self.config.profile)
        run_dir, saving = at(self.config.run_dir), self.config.checkpoint
        self.checkpoints, self.guard = (
            Checkpoints(run_dir, saving.keep, saving.keep_best),
            RollbackGuard(),
        )
        self.state, meta = resume.restore_or_init(self.checkpoints, experiment, partitioner)
        self.step = meta.step
        self.learned: DeviceBatch | None = None  # the newest batch since it was restored
        self.program: tuple[Phase | None, Any] = (None, None)
        self.eval_step = partitioner.eval_step(experiment.steps)
        self.log = MetricsLog(run_dir, experiment, meta.step, meta.tokens, meta.seconds)
        self.profile = Profile(traced, run_dir, self.log.settle)
        say(f"{f'resuming at step {self.step:,}' if self.step else 'new run'} in {run_dir}")
        count, dtype = parameter_count(self.state.params), self.config.model.dtype
        say(f"{count:,} parameters, {dtype} products")

    def run(self) -> None:
        """Trains to the last step.

        Raises:
            PreemptedError: The process was told to end; everything is saved.
            NotFiniteError: A loss is not finite; the newest checkpoint is from before that.
        """
        with StopRequests() as stop, progress("step", self.config.steps, self.step) as show:
            if self.step and not evaluated(at(self.config.run_dir), self.step):
                self._evaluate()  # left out to stop in time
            while self.step < self.config.steps:
                try:
                    self._train(stop, show)
                except NotFiniteError as error:
                    if self.config.train.on_nonfinite == "stop":
                        raise
                    self._roll_back(error)
            self.checkpoints.wait()

    def _train(self, stop: StopRequests, show: Callable[[int, str], None]) -> None:
        for phase, first, last in remaining(self.config.phases, self.step):
            train_step = self._compile(phase)
            for batch in self.experiment.data.batches(
                first, last, self.partitioner.rows(phase.batch_size)
            ):
                # This order is fixed: what is logged, evaluated and saved at step n is the state
                # after n updates, and a resumed run goes on with batch n.
                self.profile.before(self.step)
                self._update(train_step, batch)
                stopping = stop.agreed()
                self._save(None if stopping else self._evaluate(), stopping)
                if stopping:
                    self.checkpoints.wait()
                    self.log.stopped(self.step)
                    raise told_to_stop(self.step, self.config.steps, self.checkpoints.folder)
                self.on_step(self.step)
                show(self.step, self.log.note())

    def _update(self, train_step: Any, batch: Batch) -> None:
        self.step += 1
        if self.step in self.guard.skipped:
            self.state = self.partitioner.skip_step(self.state)
            self.log.push(self.step, {}, tokens=0, sequences=0)
            return
        self.learned = self.partitioner.shard_batch(batch.arrays)
        with jax.transfer_guard("disallow"):
            self.state, metrics = train_step(self.state, self.learned)
        self.log.push(self.step, metrics, batch.tokens, batch.sequences)

    def close(self, wait: bool = True) -> None:
        """Closes the files and ends the threads, not those that `wait` for other processes."""
        self.profile.stop()
        self.checkpoints.close() if wait else None
        self.log.close()

    def _roll_back(self, error: NotFiniteError) -> None:
        """Goes back to the newest good checkpoint, or the beginning; skips batches from there."""
        self.profile.stop()
        self.checkpoints.wait()
        # There may be no room for two states, and the frames of an error hold what it is about.
        del self.state
        error.__traceback__ = None
        self.state, meta = resume.restore_or_init(
            self.checkpoints, self.experiment, self.partitioner
        )
        self.step, self.learned = meta.step, None
        self.guard.roll_back(meta.step, error)
        self.log.rewind(meta.step, meta.tokens)
        self.on_step(self.step)

    def _compile(self, phase: Phase) -> Any:
        """The update of this phase; one that a rollback leads back to is there already."""
        self.log.settle()
        if self.program[0] != phase:
            self.program = phase, compiled(self.experiment, self.partitioner, phase)
        self.log.restart_clock()
        return self.program[1]

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _evaluate(self) -> float | None:
        if not self._due(self.config.train.eval_every):
            return None
        self.log.settle()
        phase = self.config.phases[number_of(self.step, self.config.phases) - 1]
        found = self.experiment.evaluate(self.eval_step, self.state.params, phase)
        self.log.held_out(self.step, found)
        return self.experiment.criterion(found)

    def _save(self, eval_loss: float | None, stopping: bool) -> None:
        if not (stopping or self._due(self.config.checkpoint.every)):
            return
        self.log.settle()
        # The metrics are from before the update; what it made of the state is not known yet.
        if self.learned is not None:
            after = jax.device_get(means(self.eval_step(self.state.params, self.learned)))
            self.log.check_finite(self.step, after)
        self.log.store()
        meta = resume.note(self.experiment, self.step, self.log.tokens, self.log.seconds)
        self.checkpoints.save(self.state, meta, eval_loss)
