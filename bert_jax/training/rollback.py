"""Skip batches after a run became infinite or NaN (``on_nonfinite: rollback``)."""

from __future__ import annotations

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import NotFiniteError


class RollbackGuard:
    """Choose the batches to skip after each rollback.

    The first rollback skips the batch of the nonfinite step; if that does not help before the next
    checkpoint, the second skips all batches since the newest one. A skipped step consumes its batch
    and changes only the count of steps, so the batch of every other step stays the same.

    Nothing of this is saved: training is deterministic, so a process that is killed and resumes
    from the same checkpoint skips the same steps again. Only a checkpoint in between, such as that
    of a request to stop, resets the count of rollbacks.

    Attributes:
        skipped: Steps to skip; step n is the update with batch n, counted from 1.
    """

    def __init__(self) -> None:
        self.skipped: set[int] = set()
        self._base = -1
        self._times = 0

    def roll_back(self, base: int, error: NotFiniteError) -> None:
        """Choose and report the steps to skip because of `error`.

        Args:
            base: Step of the restored checkpoint.
            error: The error of a later step.

        Raises:
            NotFiniteError: Two rollbacks to `base` did not help.
        """
        self._times = self._times + 1 if base == self._base else 1
        self._base = base
        if self._times > 2:
            tried = (
                f"Rolling back to step {base} and skipping the batches since then did not help: the"
                " state or the settings are the cause. "
            )
            raise NotFiniteError(error.problem, error.step, tried=tried) from error
        steps = range(error.step if self._times == 1 else base + 1, error.step + 1)
        self.skipped.update(steps)
        batches = f"batch {error.step:,}"
        if len(steps) > 1:
            batches = f"batches {steps[0]:,} to {error.step:,}"
        say(
            f"{error.problem} at step {error.step:,}; rolling back to step {base:,} and skipping"
            f" {batches}"
        )
