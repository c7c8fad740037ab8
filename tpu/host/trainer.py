"""The training process of a host, started and watched by `host`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bert_jax.runtime.entry_point import run
from bert_jax.runtime.errors import DeviceUnavailableError
from tpu.host.host_info import BEAT, CONFIG, HostInfo, Settings

_OFTEN = 0.5  # seconds between notes of the step
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    # First of all: two trainers on one host are how "TPU already in use" begins.
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    train(*map(Path, argv))


def train(home: Path, launch: Path) -> None:
    """Trains, on all hosts together.

    Raises:
        DeviceUnavailableError: Not all hosts or chips of the slice take part.
    """
    import jax  # takes seconds

    from bert_jax.runtime import distributed
    from bert_jax.runtime.console import be_quiet
    from bert_jax.training.partitioner import Partitioner
    from pipelines.commands.pretrain import pretrain
    from pipelines.settings import run_config

    place, settings = HostInfo.read(home), Settings.read(launch)
    config = run_config(["--config", str(launch / CONFIG)])
    if "GCE_METADATA_IP" in os.environ:
        # Where there is no chip JAX turns the metadata server off, emulated or not.
        os.environ.pop("TPU_SKIP_MDS_QUERY", None)
    distributed.enable_compilation_cache()
    partitioner = Partitioner.of(config.parallel, distributed.join(settings.silence))
    found = (jax.process_count(), len(partitioner.devices))
    if found != (place.hosts, settings.devices):
        raise DeviceUnavailableError(
            f"{found[0]} hosts with {found[1]} devices take part, of {place.hosts} with"
            f" {settings.devices}"
        )
    if jax.process_index():
        be_quiet()
    beats = _Beats(home / BEAT)
    try:
        pretrain(config, partitioner, beats.done)
        beats.done(config.steps)  # a run that was complete already reports no step
    finally:
        beats.write()


class _Beats:
    """Notes the newest step in a file of the host, a few times a second at most."""

    def __init__(self, path: Path) -> None:
        """Into `path`."""
        self._path, self._last, self._step = path, 0.0, -1

    def done(self, step: int) -> None:
        """Takes note of `step`."""
        self._step = step
        if time.monotonic() - self._last > _OFTEN:
            self.write()

    def write(self) -> None:
        """Writes down the newest step, if there is any."""
        self._last = time.monotonic()
        if self._step >= 0:
            self._path.write_text(str(self._step), "utf-8")


if __name__ == "__main__":
    run(main, sys.argv[1:])
