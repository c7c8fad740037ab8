"""TPU VMs on this computer: a metadata server, a folder and the processes of the startup script."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from google.cloud import tpu_v2

from bert_jax.runtime.console import say
from tpu.launch.request import STARTUP
from tpu.rehearsal.fake_cloud import Workers
from tpu.rehearsal.http_server import QuietHandler, serving
from tpu.rehearsal.process_cleanup import HOME, kill

DEVICES = 2  # of a host; the number of a real one would be slow on a few cores
_PREFIX = "/computeMetadata/v1/instance/"
# Environment variables that a program needs, and those of an emulator of Cloud Storage.
_INHERITED = (
    *("PATH", "HOME", "TMPDIR", "LANG"),
    *("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "FSSPEC_GCS_TOKEN"),
    *("NO_GCE_CHECK", "GCE_METADATA_ROOT"),
)
_COORDINATOR = 8482  # port of JAX's coordinator on TPU VMs


@dataclass
class FakeVm:
    """One TPU VM.

    Attributes:
        home: Folder that is its disk.
        metadata: Path -> answer of its metadata server.
        variables: Environment variables of its processes.
    """

    home: Path
    metadata: dict[str, str]
    variables: dict[str, str]

    def __post_init__(self) -> None:
        self._boots: list[subprocess.Popen[bytes]] = []
        handler = type("Handler", (_Handler,), {"answers": self.metadata})
        self._until_closed = ExitStack()
        self._address = self._until_closed.enter_context(serving(handler))

    def boot(self) -> None:
        """Run the startup script."""
        folder = self.home.parent
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / f"{self.home.name}.sh"
        script.write_text(self.metadata[f"{_PREFIX}attributes/{STARTUP}"], "utf-8")
        with (folder / f"{self.home.name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                ["/bin/bash", str(script)],
                cwd=folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._boots.append(process)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of all its processes."""
        # A TPU VM does not inherit the environment of the user who submits.
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return {
            **inherited,
            **self.variables,
            "GCE_METADATA_IP": self._address,
            HOME: str(self.home),
        }

    def off(self) -> None:
        """Kill all its processes, as a preemption does."""
        kill(self.home)
        while self._boots:
            self._boots.pop().wait()

    def close(self) -> None:
        """Kill its processes and stop its metadata server."""
        self.off()
        self._until_closed.close()


class FakeVms:
    """All VMs of a fake cloud; has its `on_active`, `on_gone` and `addresses`."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        """Start the cleanup process.

        Args:
            folder: Folder of their disks.
            variables: Environment variables of their processes.
        """
        self._folder, self._variables = folder, variables
        self._network = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(256)}"
        self._next_address = 1
        self._boots = 0
        self.running: dict[str, list[FakeVm]] = {}  # by node, host 0 first
        self._cleanup = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "tpu.rehearsal.process_cleanup", str(folder)],
            stdin=subprocess.PIPE,
        )

    def addresses(self, node_id: str, count: int) -> Sequence[str]:
        """Return addresses for the hosts of a node, in a random network for each cloud."""
        first = self._next_address
        self._next_address += count
        return [f"{self._network}.{first + index}" for index in range(count)]

    def boot(self, resource: tpu_v2.QueuedResource, workers: Workers) -> None:
        """Start the VMs of these nodes."""
        self._boots += 1
        node = resource.tpu.node_spec[0].node
        for slice_id, (name, ips) in enumerate(workers.items()):
            self.running[name] = []
            for number, ip in enumerate(ips):
                home = self._folder / f"boot-{self._boots}" / f"{name}-{number}"
                slices = (slice_id, len(workers), next(iter(workers.values()))[0])
                metadata = _metadata(node, ips, number, slices)
                vm = FakeVm(home, metadata, self._environment(ip))
                self.running[name].append(vm)
                vm.boot()

    def off(self, resource: tpu_v2.QueuedResource, workers: Workers) -> None:
        """Remove the VMs of these nodes."""
        self._remove(workers)

    def close(self) -> None:
        """Remove all VMs."""
        self._remove(list(self.running))
        if self._cleanup.stdin is not None:
            self._cleanup.stdin.close()
        if self._cleanup.wait():
            say(f"processes of the emulated hosts in {self._folder} may still run; kill them")

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            for vm in self.running.pop(name, []):
                vm.close()

    def _environment(self, ip: str) -> dict[str, str]:
        return {
            "BERT_JAX_PYTHON": sys.executable,
            "JAX_FORCE_TPU_INIT": "1",  # otherwise JAX ignores the metadata server
            "JAX_PLATFORMS": "cpu",
            "JAX_COORDINATOR_BIND_ADDRESS": f"{ip}:{_COORDINATOR}",  # the default is all interfaces
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **self._variables,
        }


def _metadata(
    node: tpu_v2.Node, ips: Sequence[str], number: int, slices: tuple[int, int, str]
) -> dict[str, str]:
    """Return the answers of the metadata server of a host, by path."""
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


class _Handler(QuietHandler):
    answers: dict[str, str]

    def do_GET(self) -> None:
        answer = self.answers.get(self.path.partition("?")[0])
        code = 404 if answer is None else 200
        if self.headers.get("Metadata-Flavor") != "Google":
            code = 403
        body = (answer or "").encode() if code == 200 else b""
        self.answer(body, code, {"Metadata-Flavor": "Google"})
