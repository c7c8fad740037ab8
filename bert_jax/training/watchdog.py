"""Ends a training process that does not get on: a stuck device or peer is otherwise never noticed.

JAX notices a peer that is dead, and one that is alive but stuck never (jax-ml/jax#38503).
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from types import TracebackType

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import HungError

_LOOKS = 10  # per limit
_FIRST = 3  # limits until the first step, which is restored and compiled before


class Watchdog:
    """While it is entered, `beat` must be called in every `limit` seconds, first within three."""

    def __init__(self, limit: float) -> None:
        """Of `limit` seconds; 0 = for ever."""
        self._limit = limit
        self._silent = -(_FIRST - 1) * limit
        self._ended = threading.Event()

    def __enter__(self) -> Watchdog:
        """Begins to watch."""
        if self._limit:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the watch."""
        self._ended.set()

    def beat(self, step: int) -> None:
        """To be told that `step` is done."""
        self._silent = 0.0

    def _watch(self) -> None:
        pause = self._limit / _LOOKS
        # Not by the clock: a process that was stopped, or a laptop that slept, is not stuck.
        while not self._ended.wait(pause):
            self._silent += pause
            if self._silent > self._limit:
                break
        else:
            return
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        # Last, where a reader of the log looks first.
        say(
            f"no step was done for {self._limit:g} seconds (train.hang_timeout); all threads: above"
        )
        # Nothing can be saved, and waiting for the stuck thread is what must not happen.
        os._exit(HungError.exit_code)
