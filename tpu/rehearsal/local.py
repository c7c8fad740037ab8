"""``python -m tpu local``: all of it on this computer, with an emulated cloud and its machines.

The same request, startup script, supervisord, training processes and watcher as on Cloud TPU; the
API is `testing.cloud`, the TPU VMs are processes with emulated devices.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.runtime.paths import at, is_remote
from bert_jax.runtime.signals import raise_on_signals
from pipelines.data.store.token_store import read_ledger
from pipelines.folders import RUN_LAUNCH, RUN_MARKS, exclusive, own
from pipelines.settings import command_parser
from tpu.config import SubmittedConfig, read
from tpu.launch.provider import connect
from tpu.launch.request import Launch, prepared, read_launch
from tpu.launch.submit import submit
from tpu.launch.watch import EMULATED, Watcher, watch
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays, FakeCloud
from tpu.rehearsal.fake_vm import DEVICES, Machines
from tpu.slices import slices

_BACK_OFF = (1.0, 10.0)  # seconds before another attempt
_PAUSE = 0.5  # seconds between looks of the watcher
_SILENCE = 30  # seconds after which JAX takes a host for dead
_ZONE = "us-central1-a"


@dataclass(frozen=True)
class Emulation:
    """A cloud on this computer.

    Attributes:
        cloud: Whose slices they are.
        machines: The TPU VMs.
        url: Of the API.
    """

    cloud: FakeCloud
    machines: Machines
    url: str


@contextmanager
def emulated(folder: Path, variables: dict[str, str]) -> Iterator[Emulation]:
    """A cloud whose machines have their disks in `folder`; nothing of it outlives the context."""
    with ExitStack() as stack:
        machines = Machines(folder, variables)
        stack.callback(machines.close)
        cloud = FakeCloud(
            Delays(waiting_for_resources=1.0, provisioning=1.0),
            addresses=machines.addresses,
            on_active=machines.boot,
            on_gone=machines.off,
        )
        stack.callback(cloud.close)
        yield Emulation(cloud, machines, stack.enter_context(fake_rest.serve(cloud)))


def on_workers(config: SubmittedConfig, workers: int) -> SubmittedConfig:
    """The config on the smallest slice with so many hosts, unless it names one.

    Raises:
        BadArgumentsError: There is no such slice.
    """
    per_slice, rest_ = divmod(workers, config.tpu.slices)
    fitting = [s for s in slices().values() if s.hosts == per_slice and s.generation.name == "v4"]
    if rest_ or not fitting:
        raise BadArgumentsError(
            f"--workers {workers}: slices have 1, 2, 4, 8, 16 … hosts"
            f" (tpu.slices: {config.tpu.slices})"
        )
    tpu = replace(
        config.tpu, accelerator=fitting[0].name, zones=(_ZONE,), project=EMULATED, runtime="auto"
    )
    return replace(config, tpu=tpu)


def rehearse(
    config: SubmittedConfig, emulation: Emulation, pause: Callable[[float], None] = time.sleep
) -> Launch:
    """Submits the run and watches it to its end.

    Args:
        config: Of the run.
        emulation: Where it runs.
        pause: Called between looks with the seconds to wait.

    Raises:
        UserError: The run failed.
    """
    hosts = config.tpu.slice.hosts * config.tpu.slices
    launch, files = prepared(config, devices=hosts * DEVICES, silence=_SILENCE, report=1.0)
    provider = connect(launch.project, emulation.url)
    run = at(launch.run)
    with _alone(run):
        launch = submit(launch, files, provider)
        status_files.set_endpoint(run, emulation.url)
        try:
            watch(Watcher(launch, provider, back_off=_BACK_OFF), _PAUSE, pause)
        finally:
            status_files.set_endpoint(run, "")
    return launch


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Refuses a second rehearsal in the same folder, where there are locks."""
    own(run, "run_dir", RUN_MARKS)
    if is_remote(run):
        yield
        return
    folder = run / RUN_LAUNCH
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(folder):
        yield


class Preemption:
    """Pauses, and takes the slice away once when a step is done."""

    def __init__(self, run: str, cloud: FakeCloud, step: int) -> None:
        """Of the run in that folder, at `step`."""
        self._run, self._cloud, self._step, self._due = run, cloud, step, True

    def __call__(self, seconds: float) -> None:
        """Pauses."""
        time.sleep(seconds)
        if not self._due:
            return
        found, _ = status_files.look(at(self._run))
        step = max((beat.step for beat in found.beats), default=-1)
        if step >= self._step:
            self._due = False
            say(f"step {step:,}: the slice is taken away, as was asked")
            self._cloud.preempt(read_launch(at(self._run)).name)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "tpu local",
        "Rehearses a submission on this computer: emulated TPU VMs that run the same startup"
        " script and training processes, and an emulated cloud. The config may stand first.",
    )
    parser.add_argument("--workers", type=int, default=2, help="TPU VMs: 1, 2, 4, 8 …")
    parser.add_argument(
        "--preempt-at", type=int, default=None, help="take the slice away once at this step"
    )
    config, options = read(parser, argv)
    config = on_workers(config, options["workers"])
    if not config.data.store.startswith("gs://"):
        read_ledger(Path(config.data.store))
    raise_on_signals(
        "the machines are gone, as in a power failure; the same command goes on from the newest"
        " checkpoint"
    )
    with (
        tempfile.TemporaryDirectory(prefix="bert-jax-local-") as folder,
        emulated(Path(folder), {}) as emulation,
    ):
        step = options["preempt_at"]
        pause = time.sleep if step is None else Preemption(config.run_dir, emulation.cloud, step)
        launch = rehearse(config, emulation, pause)
    say(f"python -m tpu logs {launch.run} shows what the machines said")
