"""Requests to stop, such as from a preempted machine: the process saves first."""

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


def stop_error(step: int, steps: int, folder: Path) -> PreemptedError:
    """Return the error that ends a run after a request to stop; `step` is saved in `folder`."""
    return PreemptedError(
        f"stopped on request: step {step:,} of {steps:,} is saved in {folder}; run the same command"
        " again to resume"
    )


class StopRequests:
    """Receives SIGTERM, Ctrl-C and a closed terminal inside a `with` block.

    With several processes, JAX handles SIGTERM and lets all processes agree on a step;
    `distributed.join` turns the other signals into SIGTERM. With one process JAX would handle it
    only after `jax.distributed.initialize`, so this class installs its own handler.
    """

    def __enter__(self) -> StopRequests:
        """Install the handlers."""
        self._requested = False
        self._calls = 0
        self._previous: dict[int, Any] = {}
        if jax.process_count() == 1:
            self._previous = take_over(self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Return True to stop after this step; every process must call it after every step."""
        # Processes agree on a number of calls ahead of them all. Steps decrease in a rollback.
        self._calls += 1
        if jax.process_count() > 1:
            # JAX reports it once, and the step after which it does may not be finite.
            self._requested = stop_agreed(self._calls) or self._requested
        return self._requested

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        say(
            f"{signal.Signals(number).name} received: saving and stopping after this step (send"
            " again to quit without saving)"
        )
        signal.signal(number, signal.SIG_DFL)
