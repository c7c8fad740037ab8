"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from bert_jax.config.phases import Phase, number_of, remaining
from bert_jax.runtime.console import progress
from bert_jax.runtime.errors import NotFiniteError
from bert_jax.runtime.paths import at
from bert_jax.training import device_form, resume
from bert_jax.training.batch import Batch
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.compilation import compiler
from bert_jax.training.experiment import Experiment
from bert_jax.training.metrics import MetricsLog, evaluated
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.preemption import StopRequests, stop_error
from bert_jax.training.profiler import Profile, steps_of
from bert_jax.training.rollback import RollbackGuard
from bert_jax.training.step import DeviceBatch, means


class Trainer:
    """One session of a run: from its newest checkpoint to its end or a request to stop."""

    def __init__(
        self, experiment: Experiment, partitioner: Partitioner, on_step: Callable[[int], None]
    ) -> None:
        """Restore the run or start it; `on_step` is called after every step.

        Raises:
            BadInputError: The run started with other settings, or a batch cannot be split.
        """
        self.experiment, self.partitioner, self.on_step = experiment, partitioner, on_step
        self.config, self.eval_step = experiment.config, partitioner.eval_step(experiment.steps)
        for phase in self.config.phases:
            partitioner.rows(phase.batch_size, experiment.steps.accumulate)
        traced = steps_of(self.config.profile)
        run_dir, saving = at(self.config.run_dir), self.config.checkpoint
        self.checkpoints = Checkpoints(run_dir, saving.keep, saving.keep_best)
        self.guard = RollbackGuard()
        self.form = device_form.DeviceForm.of(partitioner, experiment.steps, experiment.init_fn)
        self.state, meta = resume.restore_or_init(self.checkpoints, experiment, self.form)
        self.step = meta.step
        self.last_batch: DeviceBatch | None = None  # of the newest update since the restore
        self.compiled = compiler(experiment, self.form)
        self.log = MetricsLog(run_dir, experiment, meta.step, meta.tokens, meta.seconds)
        self.profile = Profile(traced, run_dir, self.log.settle)
        resume.report(self.form.stored, self.step, self.config)

    def run(self) -> None:
        """Train to the last step.

        Raises:
            PreemptedError: The process received a request to stop; everything is saved.
            NotFiniteError: A loss is not finite; the newest checkpoint is from before that.
        """
        with StopRequests() as stop, progress("step", self.config.steps, self.step) as show:
            if self.step and not evaluated(at(self.config.run_dir), self.step):
                self._evaluate()  # skipped by the session that stopped here
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
            rows = self.partitioner.rows(phase.batch_size)
            for batch in self.experiment.data.batches(first, last, rows):
                # This order is fixed: step n logs, evaluates and saves the state after n updates,
                # and a resumed run continues with batch n.
                self.profile.before(self.step)
                self._update(train_step, batch)
                stopping = stop.agreed()
                self._save(None if stopping else self._evaluate(), stopping)
                if stopping:
                    self.checkpoints.wait()
                    self.log.stopped(self.step)
                    raise stop_error(self.step, self.config.steps, self.checkpoints.folder)
                self.on_step(self.step)
                show(self.step, self.log.note())

    def _update(self, train_step: Any, batch: Batch) -> None:
        self.step += 1
        if self.step in self.guard.skipped:
            self.state = self.partitioner.skip_step(self.state)
            self.log.push(self.step, {}, tokens=0, sequences=0)
            return
        self.last_batch = self.partitioner.shard_batch(batch.arrays)
        with jax.transfer_guard("disallow"):
            self.state, metrics = train_step(self.state, self.last_batch)
        self.log.push(self.step, metrics, batch.tokens, batch.sequences)

    def close(self, wait: bool = True) -> None:
        """Close the files and end the threads; `wait` for those of other processes as well."""
        self.profile.stop()
        self.checkpoints.close() if wait else None
        self.log.close()

    def _roll_back(self, error: NotFiniteError) -> None:
        """Restore the newest good checkpoint, or step 0; skip batches from there."""
        self.profile.stop()
        self.checkpoints.wait()
        # Memory may not fit two states, and the frames of the error refer to this one.
        del self.state
        error.__traceback__ = None
        self.state, meta = resume.restore_or_init(self.checkpoints, self.experiment, self.form)
        self.step, self.last_batch = meta.step, None
        self.guard.roll_back(meta.step, error)
        self.log.rewind(meta.step, meta.tokens)
        self.on_step(self.step)

    def _compile(self, phase: Phase) -> Any:
        self.log.settle()
        train_step = self.compiled(phase)
        self.log.restart_clock()
        return train_step

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _evaluate(self) -> float | None:
        if not self._due(self.config.train.eval_every):
            return None
        self.log.settle()
        phase = self.config.phases[number_of(self.step, self.config.phases) - 1]
        metrics = self.experiment.evaluate(self.eval_step, self.state, phase)
        self.log.log_evaluation(self.step, metrics)
        return self.experiment.criterion(metrics)

    def _save(self, eval_loss: float | None, stopping: bool) -> None:
        if not (stopping or self._due(self.config.checkpoint.every)):
            return
        self.log.settle()
        # The logged metrics are from before the update; this checks the state after it.
        if self.last_batch is not None:
            after = jax.device_get(means(self.eval_step(self.state.params, self.last_batch)))
            self.log.check_finite(self.step, after)
        self.log.store()
        meta = resume.note(self.experiment, self.step, self.log.tokens, self.log.seconds)
        self.checkpoints.save(self.form.as_stored(self.state), meta, eval_loss)
