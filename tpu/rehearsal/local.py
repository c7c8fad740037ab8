"""``bert-jax tpu local``: rehearse a submission on this computer with an emulated cloud.

The request, startup script, supervisord, training processes and watcher are those of Cloud TPU. The
API is `fake_cloud`, and the TPU VMs are processes with emulated devices.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bert_jax.config.accelerators import slices
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
from tpu.launch.request import Launch, prepare, read_launch
from tpu.launch.submit import submit
from tpu.launch.watch import EMULATED, Watcher, watch
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays, FakeCloud
from tpu.rehearsal.fake_vm import DEVICES, FakeVms

_BACK_OFF = (1.0, 10.0)  # seconds before the next attempt
_PAUSE = 0.5  # seconds between observations of the watcher
_SILENCE = 30  # seconds after which JAX treats a silent host as dead
_ZONE = "us-central1-a"


@dataclass(frozen=True)
class Emulation:
    """A cloud on this computer.

    Attributes:
        cloud: The cloud.
        vms: Its TPU VMs.
        url: URL of its API.
    """

    cloud: FakeCloud
    vms: FakeVms
    url: str


@contextmanager
def emulated(folder: Path, variables: dict[str, str]) -> Iterator[Emulation]:
    """Start a cloud whose VMs have their disks in `folder`; stop it with the context."""
    with ExitStack() as stack:
        vms = FakeVms(folder, variables)
        stack.callback(vms.close)
        cloud = FakeCloud(
            Delays(waiting_for_resources=1.0, provisioning=1.0),
            addresses=vms.addresses,
            on_active=vms.boot,
            on_gone=vms.off,
        )
        stack.callback(cloud.close)
        yield Emulation(cloud, vms, stack.enter_context(fake_rest.serve(cloud)))


def on_workers(config: SubmittedConfig, workers: int) -> SubmittedConfig:
    """Return the config with a slice of as many hosts.

    Raises:
        BadArgumentsError: No slice has as many hosts.
    """
    per_slice, remainder = divmod(workers, config.tpu.slices)
    fitting = [s for s in slices().values() if s.hosts == per_slice and s.generation.name == "v4"]
    if remainder or not fitting:
        raise BadArgumentsError(
            f"--workers {workers}: choose 1, 2, 4, 8, 16 … hosts per slice"
            f" (tpu.slices: {config.tpu.slices})"
        )
    tpu = replace(
        config.tpu, accelerator=fitting[0].name, zones=(_ZONE,), project=EMULATED, runtime="auto"
    )
    return replace(config, tpu=tpu)


def rehearse(
    config: SubmittedConfig, emulation: Emulation, pause: Callable[[float], None] = time.sleep
) -> Launch:
    """Submit the run and watch it to its end.

    Args:
        config: Config of the run.
        emulation: The emulated cloud.
        pause: Called between observations with the seconds to wait.

    Raises:
        UserError: The run failed.
    """
    hosts = config.tpu.slice.hosts * config.tpu.slices
    launch, files = prepare(config, devices=hosts * DEVICES, silence=_SILENCE, report=1.0)
    provider = connect(launch.project, emulation.url)
    run = at(launch.run)
    with _exclusive(run):
        launch = submit(launch, files, provider)
        status_files.write_endpoint(run, emulation.url)
        try:
            watch(Watcher(launch, provider, back_off=_BACK_OFF), _PAUSE, pause)
        finally:
            status_files.write_endpoint(run, "")
    return launch


@contextmanager
def _exclusive(run: Path) -> Iterator[None]:
    """Refuse a second rehearsal in the same folder, if it supports locks."""
    own(run, "run_dir", RUN_MARKS)
    if is_remote(run):
        yield
        return
    folder = run / RUN_LAUNCH
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(folder):
        yield


def preempting(run: str, cloud: FakeCloud, step: int) -> Callable[[float], None]:
    """Return a pause that preempts the slice of a run once when `step` is reached."""
    pending = True

    def pause(seconds: float) -> None:
        nonlocal pending
        time.sleep(seconds)
        if not pending:
            return
        status, _ = status_files.read_status(at(run))
        newest = max((heartbeat.step for heartbeat in status.heartbeats), default=-1)
        if newest >= step:
            pending = False
            say(f"step {newest:,}: preempting the slice (--preempt-at {step})")
            cloud.preempt(read_launch(at(run)).name)

    return pause


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu local",
        "Rehearse a submission on this computer with an emulated cloud, whose TPU VMs run the real"
        " startup script and training processes. The config may be the first argument.",
    )
    parser.add_argument("--workers", type=int, default=2, help="number of TPU VMs: 1, 2, 4, 8 …")
    parser.add_argument(
        "--preempt-at", type=int, default=None, help="preempt the slice once at this step"
    )
    config, options = read(parser, argv)
    config = on_workers(config, options["workers"])
    for path in config.data.paths.values():
        if not path.startswith("gs://"):
            read_ledger(Path(path))
    raise_on_signals(
        "the emulated hosts were stopped, as in a power failure; run the same command again to"
        " resume from the newest checkpoint"
    )
    with (
        tempfile.TemporaryDirectory(prefix="bert-jax-local-") as folder,
        emulated(Path(folder), {}) as emulation,
    ):
        step = options["preempt_at"]
        pause = time.sleep if step is None else preempting(config.run_dir, emulation.cloud, step)
        launch = rehearse(config, emulation, pause)
    say(f"logs of the hosts: bert-jax tpu logs {launch.run}")
