"""A trace of some updates, for xprof and TensorBoard: where the time goes on the device."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import is_remote

FOLDER = "profile"
PLUGIN = "plugins/profile"  # where JAX and xprof have the traces of a folder
# Of a trace: its first and last update. All hosts agree on it, which they may not on the time.
NAME = "updates-{}-{}"


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
        """Of `steps`, into ``folder/profile``, over an older trace of the same.

        `settle` waits for the updates under way.
        """
        self._steps, self._folder, self._running = steps, folder / FOLDER, False
        self._settle = settle

    def before(self, step: int) -> None:
        """To be told before the update that follows `step`."""
        if step in self._steps and not self._running:
            self._settle()
            self._traces = self._folder
            if is_remote(self._folder):  # XLA writes to disks only
                self._traces = Path(tempfile.mkdtemp(prefix="bert-jax-"))
            options = jax.profiler.ProfileOptions()
            options.session_id = NAME.format(step + 1, self._steps.stop)
            jax.profiler.start_trace(self._traces, profiler_options=options)
            self._running = True
        elif step not in self._steps and self._running:
            self._settle()
            self.stop()

    def stop(self) -> None:
        """Writes what was traced."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            if is_remote(self._folder):
                for file in filter(Path.is_file, self._traces.rglob("*")):
                    target = self._folder / file.relative_to(self._traces)
                    target.write_bytes(file.read_bytes())
                shutil.rmtree(self._traces)
            quoted = shlex.quote(str(self._folder))
            say(f"{self._folder}: a trace; pip install xprof, then xprof --logdir {quoted}")
