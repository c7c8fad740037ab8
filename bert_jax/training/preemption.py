"""A machine that is about to go away asks its processes to end; they save first."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import jax

from bert_jax.runtime.console import say
from bert_jax.runtime.distributed import stop_agreed
from bert_jax.runtime.errors import PreemptedError
from bert_jax.runtime.signals import take_over


def told_to_stop(step: int, steps: int, folder: Path) -> PreemptedError:
    """What a run of so many steps ends with when `step` is saved in `folder`."""
    return PreemptedError(
        f"told to stop: step {step:,} of {steps:,} is saved in {folder}; the same command goes on"
        " from there"
    )


class StopRequests:
    """Notices SIGTERM, Ctrl-C and a closed terminal while it is entered.

    With several processes JAX notices SIGTERM itself and lets all of them agree on a step, and the
    other signals are passed on as that (`parallel.join`). With one process it would do so only
    after `jax.distributed.initialize`, so there the handler is ours.
    """

    def __enter__(self) -> StopRequests:
        """Takes over the signals."""
        self._asked = False
        self._times = 0
        self._before: dict[int, Any] = {}
        if jax.process_count() == 1:
            self._before = take_over(self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether to stop now that a step is done; every process must ask every time."""
        # Not by the step, which goes back in a rollback: they agree on a number ahead of them all.
        self._times += 1
        if jax.process_count() > 1:
            # JAX says it once; the step after which it does may turn out not to be finite.
            self._asked = stop_agreed(self._times) or self._asked
        return self._asked

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        say(f"{signal.Signals(number).name}: saving after this step; once more ends without saving")
        signal.signal(number, signal.SIG_DFL)
