"""A device trace of some updates, for xprof and TensorBoard."""

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
PLUGIN = "plugins/profile"  # the folder that JAX and xprof use for traces
# Name of a trace: its first and last update. Hosts may disagree on the time, but not on these.
NAME = "updates-{}-{}"


def steps_of(text: str) -> range:
    """Parse ``START:STOP``: the updates after step START, up to step STOP; "" means none.

    Raises:
        BadInputError: The text has another form.
    """
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise BadInputError(f"profile {text!r} must be START:STOP, two steps such as 100:105")
    return range(int(match[1]), int(match[2]))


class Profile:
    """Traces the requested updates into a folder."""

    def __init__(self, steps: range, folder: Path, settle: Callable[[], None]) -> None:
        """Trace `steps` into ``folder/profile``, replacing an older trace of the same steps.

        Args:
            steps: Steps before the traced updates.
            folder: Folder of the run.
            settle: Waits for the updates that are running.
        """
        self._steps, self._folder, self._running = steps, folder / FOLDER, False
        self._settle = settle

    def before(self, step: int) -> None:
        """Start or stop before the update that follows `step`."""
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
        """End the trace and write it."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            if is_remote(self._folder):
                for file in filter(Path.is_file, self._traces.rglob("*")):
                    target = self._folder / file.relative_to(self._traces)
                    target.write_bytes(file.read_bytes())
                shutil.rmtree(self._traces)
            quoted = shlex.quote(str(self._folder))
            say(
                f"wrote a trace to {self._folder}; view it with: pip install xprof; xprof --logdir"
                f" {quoted}"
            )
