"""Which batches a run leaves out after it became infinite or NaN (``on_nonfinite: rollback``)."""

from __future__ import annotations

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import NotFiniteError


class RollbackGuard:
    """Decides after each rollback what to leave out from there on.

    First the batch of the step that was not finite; if that does not help before the next
    checkpoint, all batches since the newest one. A skipped step uses up its batch and changes
    nothing but the count of steps, so the batch of every other step stays the same.

    Nothing of this is saved: the same bits lead to the same finds, so a process that is killed and
    goes on from the same checkpoint comes to skip the same steps. Only a checkpoint in between, as
    a request to stop makes one, begins the count of rollbacks anew.

    Attributes:
        skipped: Steps to leave out; step n is the update with batch n, counted from 1.
    """

    def __init__(self) -> None:
        """Nothing is left out."""
        self.skipped: set[int] = set()
        self._base = -1
        self._times = 0

    def roll_back(self, base: int, error: NotFiniteError) -> None:
        """Decides which steps are skipped from now on because of `error`, and says it.

        Args:
            base: Step that the run went back to.
            error: Was found after a later one.

        Raises:
            NotFiniteError: Two rollbacks to there did not help.
        """
        self._times = self._times + 1 if base == self._base else 1
        self._base = base
        if self._times > 2:
            tried = (
                f"Going back to step {base} and skipping the batches since then did not help, so"
                " the state or the settings are at fault. "
            )
            raise NotFiniteError(error.found, error.step, tried=tried) from error
        steps = range(error.step if self._times == 1 else base + 1, error.step + 1)
        self.skipped.update(steps)
        which = f"batch {error.step:,} is"
        if len(steps) > 1:
            which = f"batches {steps[0]:,} to {error.step:,} are"
        say(f"{error.found} at step {error.step:,}: back to step {base:,}, {which} skipped")
