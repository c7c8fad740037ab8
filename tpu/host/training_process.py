"""The training process of a host, started by `supervise`."""

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
from tpu.host.host_info import CONFIG, STEP_FILE, HostInfo, Settings

_INTERVAL = 0.5  # seconds between writes of the step
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    # Two training processes on one host are the cause of "TPU already in use".
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    train(*map(Path, argv))


def train(home: Path, launch: Path) -> None:
    """Train on all hosts of the slice.

    Raises:
        DeviceUnavailableError: A host or a chip of the slice is missing.
    """
    import jax  # takes seconds

    from bert_jax.runtime import distributed
    from bert_jax.runtime.console import be_quiet
    from bert_jax.training.partitioner import Partitioner
    from pipelines.pretraining import pretrain
    from pipelines.settings import run_config

    host, settings = HostInfo.read(home), Settings.read(launch)
    config = run_config(["--config", str(launch / CONFIG)])
    if "GCE_METADATA_IP" in os.environ:
        # Without a chip JAX ignores the metadata server, also an emulated one.
        os.environ.pop("TPU_SKIP_MDS_QUERY", None)
    distributed.enable_compilation_cache()
    partitioner = Partitioner.of(config.parallel, distributed.join(settings.silence))
    hosts, devices = jax.process_count(), len(partitioner.devices)
    if (hosts, devices) != (host.hosts, settings.devices):
        raise DeviceUnavailableError(
            f"the job has {hosts} hosts with {devices} devices; the slice has {host.hosts} with"
            f" {settings.devices}; the process restarts, and if this repeats, delete the slice with"
            " bert-jax tpu delete RUN and submit again"
        )
    if jax.process_index():
        be_quiet()
    step_file = _StepFile(home / STEP_FILE)
    try:
        pretrain(config, partitioner, step_file.on_step)
        step_file.on_step(config.steps)  # a run that was already complete calls no on_step
    finally:
        step_file.write()


class _StepFile:
    """Writes the newest step to a file of the host, a few times a second at most."""

    def __init__(self, path: Path) -> None:
        self._path, self._written_at, self._step = path, 0.0, -1

    def on_step(self, step: int) -> None:
        self._step = step
        if time.monotonic() - self._written_at > _INTERVAL:
            self.write()

    def write(self) -> None:
        self._written_at = time.monotonic()
        if self._step >= 0:
            self._path.write_text(str(self._step), "utf-8")


if __name__ == "__main__":
    run(main, sys.argv[1:])
