"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from bert_jax import resume
from bert_jax.checkpoint import Checkpoints, Meta
from bert_jax.config import Phase, as_dict
from bert_jax.console import progress, say
from bert_jax.errors import PreemptedError
from bert_jax.metrics import MetricsLog
from bert_jax.parallel import Layout
from bert_jax.paths import at
from bert_jax.profile import Profile, steps_of
from bert_jax.state import TrainState, parameter_count
from bert_jax.steps import DeviceBatch, means
from bert_jax.stop import StopRequests
from bert_jax.work import Work


class Trainer:
    """One sitting of a run: from its newest checkpoint to its end, or to a request to stop."""

    def __init__(self, work: Work, layout: Layout, told: Callable[[int], None]) -> None:
        """Restores the run, or begins it; `told` hears of every step that is done.

        Raises:
            BadInputError: The run began with other settings, or a batch cannot be split.
        """
        self.work, self.config, self.layout, self.told = work, work.config, layout, told
        for phase in self.config.phases:
            layout.rows(phase.batch_size, work.steps.accumulate)
        traced = steps_of(self.config.profile)
        run_dir, saving = at(self.config.run_dir), self.config.checkpoint
        self.checkpoints = Checkpoints(run_dir, saving.keep, saving.keep_best)
        restored = self.checkpoints.restore(layout.abstract_state(work.fresh), self._check)
        begin = work.begin or partial(layout.build, work.fresh)
        self.state: TrainState = restored[0] if restored else begin()
        meta = restored[1] if restored else Meta()
        self.step = meta.step
        self.eval_step = layout.eval_step(work.steps)
        self.log = MetricsLog(run_dir, work, meta.step, meta.tokens, meta.seconds)
        self.profile = Profile(traced, run_dir, self.log.settle)
        say(f"{f'resuming at step {self.step:,}' if restored else 'new run'} in {run_dir}")
        say(
            f"{parameter_count(self.state.params):,} parameters, {self.config.model.dtype} products"
        )

    def run(self) -> None:
        """Trains to the last step.

        Raises:
            PreemptedError: The process was told to end; everything is saved.
            BadInputError: A loss is not finite; the newest checkpoint is from before that.
        """
        total = self.config.steps
        with StopRequests() as stop, progress("step", total, self.step) as show:
            for phase, first, last in self._phases():
                train_step = self._compile(phase)
                for batch in self.work.data.batches(
                    first, last, self.layout.rows(phase.batch_size)
                ):
                    # This order is fixed: what is logged, evaluated and saved at step n is the
                    # state after n updates, and a resumed run goes on with batch n.
                    self.profile.before(self.step)
                    placed = self.layout.place(batch.arrays)
                    with jax.transfer_guard("disallow"):
                        self.state, metrics = train_step(self.state, placed)
                    self.step += 1
                    self.log.push(self.step, metrics, batch.tokens, batch.sequences)
                    stopping = stop.agreed(self.step)
                    eval_loss = None if stopping else self._evaluate(phase)
                    self._save(eval_loss, placed, stopping)
                    if stopping:
                        self.checkpoints.wait()
                        raise PreemptedError(
                            f"told to stop: step {self.step:,} of {total:,} is saved in"
                            f" {self.checkpoints.folder}; the same command goes on from there"
                        )
                    self.told(self.step)
                    show(self.step, self.log.note())
            self.checkpoints.wait()

    def close(self) -> None:
        """Ends the background threads and closes the files."""
        self.profile.stop()
        self.checkpoints.close()
        self.log.close()

    def _check(self, meta: Meta) -> None:
        """Refuses to resume a different run; prints what is different and allowed."""
        new = as_dict(self.config)
        for line in resume.changes(meta.config, new, meta.data, self.work.data.digests, meta.step):
            say(f"changed since step {meta.step:,}: {line}")

    def _phases(self) -> Iterator[tuple[Phase, int, int]]:
        """The phases that are left, each with its first step and the one after its last."""
        begin = 0
        for phase in self.config.phases:
            end = begin + phase.steps
            if self.step < end:
                yield phase, max(begin, self.step), end
            begin = end

    def _compile(self, phase: Phase) -> Any:
        """The update of this phase; says what it needs."""
        self.log.settle()
        B, T = phase.batch_size, phase.length
        say(f"phase: {phase.steps:,} steps of {B} sequences x {T} tokens = {B * T:,} tokens a step")
        batch = self.layout.abstract_batch(self.work.data.shape(T, B))
        compiled = self.layout.train_step(self.work.steps).lower(self.state, batch).compile()
        memory = compiled.memory_analysis()
        gib = [x / 2**30 for x in (memory.argument_size_in_bytes, memory.temp_size_in_bytes)]
        say(f"memory per device: {gib[0]:.2f} GiB arguments + {gib[1]:.2f} GiB temporary")
        self.log.restart_clock()
        return compiled

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _evaluate(self, phase: Phase) -> float | None:
        if not self._due(self.config.train.eval_every):
            return None
        self.log.settle()
        found = self.work.evaluate(self.eval_step, self.state.params, phase)
        self.log.check_finite(self.step, found)
        self.log.write(self.step, {f"eval_{name}": value for name, value in found.items()})
        shown = ", ".join(f"{name} {x:.4g}" for name, x in found.items() if x is not None)
        say(f"step {self.step:,} held out: {shown}")
        self.log.restart_clock()
        return self.work.criterion(found)

    def _save(self, eval_loss: float | None, batch: DeviceBatch, stopping: bool) -> None:
        if not (stopping or self._due(self.config.checkpoint.every)):
            return
        self.log.settle()
        # The metrics are from before the update; what it made of the state is not known yet.
        after = jax.device_get(means(self.eval_step(self.state.params, batch)))
        self.log.check_finite(self.step, after)
        tokens, seconds = self.log.tokens, self.log.seconds
        meta = Meta(self.step, tokens, seconds, as_dict(self.config), self.work.data.digests)
        meta = replace(meta, architecture=self.work.architecture, labels=self.work.labels)
        self.log.store()
        self.checkpoints.save(self.state, meta, eval_loss)
