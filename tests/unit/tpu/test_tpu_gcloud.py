"""The real gcloud against the fake cloud: it sends our requests and sees our slices."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.cloud.tpu_v2", reason="extra cloud is not installed")

from google.cloud import tpu_v2

from support.scripted_cloud import ScriptedCloud
from support.slice_requests import endpoints
from tpu.config import TpuConfig
from tpu.launch.provider import ENDPOINT, connect
from tpu.launch.request import Launch, queued_resource
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays
from tpu.rehearsal.http_server import QuietHandler, serving

GCLOUD = shutil.which("gcloud")
pytestmark = pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")

PROJECT = "my-project"
ZONE = "us-west4-a"

Gcloud = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cloud() -> Iterator[ScriptedCloud]:
    fake_cloud = ScriptedCloud(Delays(0, 0, 0, 0, 0))
    yield fake_cloud
    fake_cloud.close()


@pytest.fixture
def url(cloud: ScriptedCloud) -> Iterator[str]:
    with fake_rest.serve(cloud) as served:
        yield served


@pytest.fixture
def compute() -> Iterator[str]:
    """The request of `tpu-vm ssh` to Compute Engine: a project without keys."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.answer(json.dumps({"name": PROJECT, "commonInstanceMetadata": {}}).encode())

    with serving(Handler) as address:
        yield f"http://{address}/compute/v1/"


@pytest.fixture
def gcloud(url: str, compute: str, tmp_path: Path) -> Gcloud:
    """Run `gcloud compute tpus …` without settings and credentials."""
    (tmp_path / ".ssh").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_CORE_PROJECT": PROJECT,
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        ENDPOINT: url,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": compute,
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(GCLOUD), "compute", "tpus", *arguments, f"--zone={ZONE}"]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def launch(**tpu: Any) -> Launch:
    config = TpuConfig(
        accelerator="v5litepod-16",
        zones=(ZONE,),
        project=PROJECT,
        service_account="trainer@my-project.iam.gserviceaccount.com",
        network="default",
        **tpu,
    )
    return Launch("bert-run-1", "gs://bucket/run", PROJECT, config, "0" * 64)


def create(launch: Launch, tmp_path: Path) -> list[str]:
    """Return the gcloud command that equals our request."""
    (spec,) = queued_resource(launch, ZONE, 1).tpu.node_spec
    node = spec.node
    script = tmp_path / "startup.sh"
    script.write_text(node.metadata["startup-script"], "utf-8")
    metadata = {key: value for key, value in node.metadata.items() if key != "startup-script"}
    command = [
        *("queued-resources", "create", launch.name),
        f"--accelerator-type={launch.tpu.accelerator}",
        f"--runtime-version={launch.tpu.runtime_version}",
        f"--labels={_pairs(node.labels)}",
        f"--metadata={_pairs(metadata)}",
        f"--metadata-from-file=startup-script={script}",
        f"--service-account={launch.tpu.service_account}",
        f"--scopes={','.join(node.service_account.scope)}",
        f"--network={launch.tpu.network}",
    ]
    slices = launch.tpu.slices
    command += (
        [f"--node-id={launch.name}-1"]
        if slices == 1
        else [f"--node-count={slices}", f"--node-prefix={launch.name}-1"]
    )
    if launch.tpu.internal_ip:
        command.append("--internal-ips")
    if launch.tpu.subnetwork:
        command.append(f"--subnetwork={launch.tpu.subnetwork}")
    capacity = {"spot": ["--spot"], "on-demand": [], "reserved": ["--reserved"]}
    return command + capacity[launch.tpu.capacity]


def _pairs(values: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in values.items())


@pytest.mark.parametrize(
    "tpu",
    [
        {},
        {"capacity": "on-demand", "internal_ip": True, "subnetwork": "sub"},
        {"slices": 2},
        {"capacity": "reserved"},
    ],
    ids=["spot", "on-demand", "multislice", "reserved"],
)
def test_our_request_is_the_one_that_gcloud_sends(
    cloud: ScriptedCloud, gcloud: Gcloud, tmp_path: Path, tpu: dict[str, Any]
) -> None:
    requested = launch(**tpu)
    result = gcloud(*create(requested, tmp_path), "--async")
    assert result.returncode == 0, result.stderr
    rpc, sent = cloud.calls[0]
    assert rpc == "CreateQueuedResource"
    assert sent.queued_resource_id == requested.name
    request = queued_resource(requested, ZONE, 1)
    assert tpu_v2.QueuedResource.to_dict(sent.queued_resource) == (
        tpu_v2.QueuedResource.to_dict(request)
    )


def test_gcloud_sees_and_deletes_what_we_make(
    cloud: ScriptedCloud, gcloud: Gcloud, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = launch()
    monkeypatch.setenv(ENDPOINT, url)
    slices = connect(PROJECT)
    assert slices.create(ZONE, requested.name, queued_resource(requested, ZONE, 1))
    listed = gcloud("queued-resources", "list", "--format=json")
    (listed_resource,) = json.loads(listed.stdout)
    assert listed_resource["state"]["state"] == "ACTIVE"
    described = gcloud("queued-resources", "describe", requested.name, "--format=json")
    assert json.loads(described.stdout) == listed_resource
    node = json.loads(gcloud("tpu-vm", "describe", f"{requested.name}-1", "--format=json").stdout)
    ips = [endpoint["ipAddress"] for endpoint in node["networkEndpoints"]]
    assert tuple(ips) == endpoints(slices, requested.name)
    refused = gcloud("queued-resources", "delete", requested.name)
    assert refused.returncode == 1
    assert "FAILED_PRECONDITION" in refused.stderr
    deleted = gcloud("queued-resources", "delete", requested.name, "--force")
    assert deleted.returncode == 0, deleted.stderr
    assert slices.describe(ZONE, requested.name) is None


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
def test_gcloud_reaches_one_worker_by_its_number(
    cloud: ScriptedCloud, gcloud: Gcloud, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = launch()
    monkeypatch.setenv(ENDPOINT, url)
    slices = connect(PROJECT)
    assert slices.create(ZONE, requested.name, queued_resource(requested, ZONE, 1))
    result = gcloud(
        *(
            "tpu-vm",
            "ssh",
            f"{requested.name}-1",
            "--worker=1",
            "--command=hostname",
            "--dry-run",
            "--quiet",
        )
    )
    assert result.returncode == 0, result.stderr
    words = shlex.split(result.stdout.splitlines()[-1])  # above it, a key is made
    assert words[0].endswith("ssh")
    assert words[-1] == "hostname"
    second = endpoints(slices, requested.name)[1]
    assert any(word.endswith(f"@{second}") for word in words)


def test_gcloud_explains_a_zone_as_we_do(
    gcloud: Gcloud, cloud: ScriptedCloud, tmp_path: Path
) -> None:
    cloud.refuse("INVALID_ARGUMENT", 'The requested zone "us-west4-a" is not supported.')
    result = gcloud(*create(launch(), tmp_path))
    assert result.returncode == 1
    assert 'The requested zone "us-west4-a" is not supported.' in result.stderr
