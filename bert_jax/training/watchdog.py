"""Ends a training process that makes no progress because a device or peer is stuck.

JAX detects a peer that died, but never one that is alive and stuck (jax-ml/jax#38503).
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from types import TracebackType

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import HungError

_CHECKS = 10  # per limit
_FIRST = 3  # limits until the first step, which includes restoring and compiling


class Watchdog:
    """Ends the process unless `beat` is called every `limit` seconds; three times that at first."""

    def __init__(self, limit: float) -> None:
        """Set the limit in seconds; 0 means no limit."""
        self._limit = limit
        self._silent = -(_FIRST - 1) * limit
        self._ended = threading.Event()

    def __enter__(self) -> Watchdog:
        """Start watching."""
        if self._limit:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching."""
        self._ended.set()

    def beat(self, step: int) -> None:
        """Record that `step` is done."""
        self._silent = 0.0

    def _watch(self) -> None:
        pause = self._limit / _CHECKS
        # The clock is not used: a process that was suspended, or a laptop that slept, is not stuck.
        while not self._ended.wait(pause):
            self._silent += pause
            if self._silent > self._limit:
                break
        else:
            return
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        # The last line of a log is read first.
        say(
            f"no step was done for {self._limit:g} seconds (train.hang_timeout): a device or"
            " another process is stuck (stacks of all threads: above); run the same command again"
            " to resume"
        )
        # Nothing can be saved, and the process must not wait for the stuck thread.
        os._exit(HungError.exit_code)
