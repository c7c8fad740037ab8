"""A trace of some updates, for xprof and TensorBoard: where the time goes on the device."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import jax

from bert_jax.console import say
from bert_jax.errors import BadInputError

FOLDER = "profile"


def steps_of(text: str) -> range:
    """The updates of ``START:STOP``: those after step START, up to step STOP; none of "".

    Raises:
        BadInputError: It is something else.
    """
    if not text:
        return range(0)
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise BadInputError(f"profile {text!r} must be START:STOP, two steps such as 100:105")
    return range(int(found[1]), int(found[2]))


class Profile:
    """Traces the updates that were asked for into a folder."""

    def __init__(self, steps: range, folder: Path, settle: Callable[[], None]) -> None:
        """Of `steps`, into ``folder/profile``; `settle` waits for the updates under way."""
        self._steps, self._folder, self._running = steps, folder / FOLDER, False
        self._settle = settle

    def before(self, step: int) -> None:
        """To be told before the update that follows `step`."""
        if step in self._steps and not self._running:
            self._settle()
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif step not in self._steps and self._running:
            self._settle()
            self.stop()

    def stop(self) -> None:
        """Writes what was traced."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            say(f"{self._folder}: a trace; pip install xprof, then xprof --logdir {self._folder}")
