"""The readers of status files, VM attributes and cloud responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bert_jax.runtime import status_files
from tools.drill.observed import Reader
from tpu.config import TpuConfig
from tpu.host import host_info
from tpu.host.supervise import HostState
from tpu.launch import logs, provider
from tpu.launch.request import FILE, Launch, read_launch
from tpu.launch.status import report, table
from tpu.launch.watch import Watcher
from tpu.rehearsal.http_server import QuietHandler, serving

_ZONE = "us-west4-a"
_PARENT = f"projects/project/locations/{_ZONE}"
_TPU = TpuConfig(accelerator="v5litepod-16", zones=(_ZONE,), project="project")
_LAUNCH = Launch("bert-run", "run", "project", _TPU, "0" * 64)


def make_status_files(folder: Path) -> None:
    status_files.write_file(folder / "launch" / FILE, _LAUNCH.text().encode())
    for worker in range(2):
        status_files.write_heartbeat(
            folder, status_files.Heartbeat(worker, 1, "training", 5, note="a word")
        )
    status_files.write_outcome(folder, "STOPPED", status_files.Outcome(_LAUNCH.spec, 1, 5, "asked"))
    status_files.write_attempt(
        folder, status_files.Attempt(1, _LAUNCH.spec, _ZONE, -1, 1.0, ended="preempted")
    )
    status_files.write_endpoint(folder, "http://127.0.0.1:1/")
    log = status_files.log_file(folder, 1, 0)
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\n", "utf-8")


def read_status_files(folder: Path) -> None:
    status_files.read_endpoint(folder)
    _status(read_launch(folder), folder, _EmptyCloud())
    for name, path in logs.files(folder, None).items():
        print("\n".join(logs.Tail(name, path, 20).new()))  # noqa: T201


_REFUSAL = "us-west4-a has no capacity for TPU now: add zones to tpu.zones, or wait"


class _EmptyCloud(provider.QueuedResources):
    """A cloud without slices."""

    def __init__(self) -> None:
        """Connect to nothing."""

    def describe(self, zone: str, name: str) -> None:
        pass


def _status(launch: Launch, folder: Path, cloud: provider.QueuedResources) -> None:
    """Do what ``bert-jax tpu status`` does."""
    watcher = Watcher(replace(launch, run=str(folder)), cloud)
    observation, decision = watcher.observe()
    json.dumps(report(watcher.launch, observation, decision))
    print(table(watcher.launch, observation, decision))  # noqa: T201


def make_vm(folder: Path) -> None:
    (folder / "attributes").mkdir()
    attributes = {
        "worker-network-endpoints": "unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: '2'\n",
        "bert-jax-run": "run",
        "bert-jax-spec": "0" * 64,
        "bert-jax-attempt": "1",
        "agent-worker-number": "1",
    }
    for name, text in attributes.items():
        (folder / "attributes" / name).write_text(text, "utf-8")
    (folder / host_info.SETTINGS).write_text(host_info.Settings(16, 1200).text(), "utf-8")
    HostState(1).write(folder / "memory.json")


def read_vm(folder: Path) -> None:
    host_info.HostInfo.read(folder)
    host_info.Settings.read(folder)
    HostState.read(folder / "memory.json", 1)


def make_responses(folder: Path) -> None:
    node = {
        "name": f"{_PARENT}/nodes/run-1",
        "acceleratorType": "v5litepod-16",
        "state": "READY",
        "health": "HEALTHY",
        "networkEndpoints": [{"ipAddress": "10.0.0.1"}],
        "labels": {"managed-by": "bert-jax"},
        "metadata": {"bert-jax-attempt": "1"},
    }
    resource = {
        "name": f"{_PARENT}/queuedResources/run",
        "createTime": "2026-01-01T00:00:00Z",
        "tpu": {"nodeSpec": [{"parent": _PARENT, "nodeId": "run-1", "node": node}]},
        "state": {"state": "ACTIVE", "stateInitiator": "USER"},
    }
    error = {"code": 8, "message": "no more capacity", "status": "RESOURCE_EXHAUSTED"}
    responses = {
        "describe": resource,
        "node": node,
        "list": {"queuedResources": [resource], "nextPageToken": ""},
        "refused": {"error": error | {"code": 429}},
        "failed": {"name": "projects/p/locations/z/operations/o", "done": True, "error": error},
    }
    for name, response in responses.items():
        (folder / f"{name}.json").write_text(json.dumps(response), "utf-8")


class _Cloud(QuietHandler):
    """A cloud API that responds with the files of `folder`."""

    folder: Path

    def do_GET(self) -> None:
        if "/nodes/" in self.path:
            self._respond("node", 200)
        elif "/operations/" in self.path:
            self._respond("failed", 200)
        elif "/queuedResources/refused" in self.path:
            self._respond("refused", 429)
        elif "/queuedResources/" in self.path:
            self._respond("describe", 200)
        else:
            self._respond("list", 200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._respond("failed", 200)

    def do_DELETE(self) -> None:
        self._respond("refused", 400)

    def _respond(self, name: str, code: int) -> None:
        path = self.folder / f"{name}.json"
        self.answer(path.read_bytes() if path.is_file() else b"", code)


def read_responses(folder: Path) -> None:
    """Call every method; raise the last refusal."""
    provider._RETRY_TIME, provider._BACK_OFF = 0.05, 0.01
    refusal: Exception | None = None
    with serving(type("Handler", (_Cloud,), {"folder": folder})) as address:
        cloud = provider.connect("project", f"http://{address}/")
        calls = (
            lambda: json.dumps([asdict(slice_) for slice_ in cloud.list(_ZONE)]),
            lambda: _status(_LAUNCH, folder / "run", cloud),
            lambda: cloud.describe(_ZONE, "refused"),
            lambda: cloud.describe(_ZONE, "run"),
            lambda: cloud.delete(_ZONE, "run"),
            lambda: cloud.create(_ZONE, "run", provider.tpu_v2.QueuedResource()),
        )
        for call in calls:
            try:
                call()
            except provider.CloudError as error:
                refusal = error
                str(error)
    assert refusal is not None
    raise refusal


TPU_READERS: Sequence[Reader] = (
    Reader(
        "status of a run",
        make_status_files,
        read_status_files,
        ("launch/*.json", "status/**/*.json", "control/*", "logs/**/*.log"),
    ),
    Reader("attributes of a machine", make_vm, read_vm, ("**/*.*", "attributes/*")),
    Reader("answers of the cloud", make_responses, read_responses, ("*.json",), refusal=_REFUSAL),
)
