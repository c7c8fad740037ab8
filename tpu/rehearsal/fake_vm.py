"""TPU VMs on this computer: a metadata server, a folder, and what the startup script starts."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from google.cloud import tpu_v2

from bert_jax.runtime.console import say
from tpu.launch.request import STARTUP
from tpu.rehearsal.fake_cloud import Workers
from tpu.rehearsal.http_server import Quiet, serving
from tpu.rehearsal.reaper import HOME, kill

DEVICES = 2  # of a machine: as many as real ones have would be slow on a few cores
_PREFIX = "/computeMetadata/v1/instance/"
# Of the environment: what a program needs, and where an emulator of Cloud Storage is.
_KEPT = (
    *("PATH", "HOME", "TMPDIR", "LANG"),
    *("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "FSSPEC_GCS_TOKEN"),
    *("NO_GCE_CHECK", "GCE_METADATA_ROOT"),
)
_COORDINATOR = 8482  # the port at which JAX's processes meet on TPU VMs


@dataclass
class Machine:
    """One TPU VM.

    Attributes:
        home: Its disk.
        metadata: What its metadata server answers, by path.
        variables: Of the environment of its processes.
    """

    home: Path
    metadata: dict[str, str]
    variables: dict[str, str]

    def __post_init__(self) -> None:
        """Starts its metadata server."""
        self._boots: list[subprocess.Popen[bytes]] = []
        handler = type("Handler", (_Handler,), {"answers": self.metadata})
        self._until_closed = ExitStack()
        self._address = self._until_closed.enter_context(serving(handler))

    def boot(self) -> None:
        """Runs the startup script, as at every boot."""
        folder = self.home.parent
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / f"{self.home.name}.sh"
        script.write_text(self.metadata[f"{_PREFIX}attributes/{STARTUP}"], "utf-8")
        with (folder / f"{self.home.name}.log").open("ab") as log:
            started = subprocess.Popen(  # noqa: S603
                ["/bin/bash", str(script)],
                cwd=folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._boots.append(started)

    @property
    def environment(self) -> dict[str, str]:
        """Of all its processes."""
        # A TPU VM has nothing of the environment in which somebody submits.
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {**kept, **self.variables, "GCE_METADATA_IP": self._address, HOME: str(self.home)}

    def off(self) -> None:
        """Ends all its processes at once, as a machine does that is taken away."""
        kill(self.home)
        while self._boots:
            self._boots.pop().wait()

    def close(self) -> None:
        """Ends its metadata server too."""
        self.off()
        self._until_closed.close()


class Machines:
    """All machines of a fake cloud; its `on_active`, `on_gone` and `addresses`."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        """Into `folder`, with `variables` in their environment."""
        self._folder, self._variables = folder, variables
        self._network = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(256)}"
        self._addresses = 1
        self._started = 0
        self.there: dict[str, list[Machine]] = {}  # by node, worker 0 first
        self._reaper = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "tpu.rehearsal.reaper", str(folder)], stdin=subprocess.PIPE
        )

    def addresses(self, node_id: str, count: int) -> Sequence[str]:
        """For the workers of a node. Random, so that several clouds on a computer do not meet."""
        first = self._addresses
        self._addresses += count
        return [f"{self._network}.{first + index}" for index in range(count)]

    def boot(self, resource: tpu_v2.QueuedResource, workers: Workers) -> None:
        """Starts the machines of these nodes."""
        self._started += 1
        node = resource.tpu.node_spec[0].node
        for slice_id, (name, ips) in enumerate(workers.items()):
            self.there[name] = []
            for number, ip in enumerate(ips):
                home = self._folder / f"boot-{self._started}" / f"{name}-{number}"
                slices = (slice_id, len(workers), next(iter(workers.values()))[0])
                metadata = _metadata(node, ips, number, slices)
                machine = Machine(home, metadata, self._environment(ip))
                self.there[name].append(machine)
                machine.boot()

    def off(self, resource: tpu_v2.QueuedResource, workers: Workers) -> None:
        """Takes the machines of these nodes away."""
        for name in workers:
            for machine in self.there.pop(name, []):
                machine.close()

    def close(self) -> None:
        """Takes all away."""
        for name in list(self.there):
            for machine in self.there.pop(name):
                machine.close()
        if self._reaper.stdin is not None:
            self._reaper.stdin.close()
        if self._reaper.wait():
            say(f"processes may be left of the machines in {self._folder}")

    def _environment(self, ip: str) -> dict[str, str]:
        return {
            "BERT_JAX_PYTHON": sys.executable,
            "JAX_FORCE_TPU_INIT": "1",  # JAX asks the metadata server of TPU VMs only
            "JAX_PLATFORMS": "cpu",
            "JAX_COORDINATOR_BIND_ADDRESS": f"{ip}:{_COORDINATOR}",  # by default all interfaces
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **self._variables,
        }


def _metadata(
    node: tpu_v2.Node, ips: Sequence[str], number: int, slices: tuple[int, int, str]
) -> dict[str, str]:
    """What the metadata server of a worker answers."""
    slice_id, count, coordinator = slices
    environment = f"ACCELERATOR_TYPE: '{node.accelerator_type}'\nWORKER_ID: '{number}'\n"
    if count > 1:
        environment += (
            f"MEGASCALE_NUM_SLICES: '{count}'\nMEGASCALE_SLICE_ID: '{slice_id}'\n"
            f"MEGASCALE_COORDINATOR_ADDRESS: '{coordinator}'\n"
        )
    attributes = {
        **node.metadata,
        "agent-worker-number": str(number),
        "worker-network-endpoints": ",".join(f"unused:unused:{ip}" for ip in ips),
        "tpu-env": environment,
    }
    token = {"access_token": "emulated", "expires_in": 3599, "token_type": "Bearer"}
    return {f"{_PREFIX}attributes/{name}": value for name, value in attributes.items()} | {
        f"{_PREFIX}service-accounts/default/token": json.dumps(token)
    }


class _Handler(Quiet):
    answers: dict[str, str]

    def do_GET(self) -> None:
        answer = self.answers.get(self.path.partition("?")[0])
        code = 403 if self.headers.get("Metadata-Flavor") != "Google" else 404
        if code == 404 and answer is not None:
            code = 200
        body = (answer if code == 200 and answer is not None else "").encode()
        self.answer(body, code, {"Metadata-Flavor": "Google"})
