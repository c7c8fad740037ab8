"""A launch: a submitted run, and the request that creates its slice."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from google.cloud import tpu_v2

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.hub.repository import HUB
from pipelines.folders import RUN_LAUNCH
from pipelines.settings import config_from_dict
from tpu.config import SubmittedConfig, TpuConfig, complete, resolve_project
from tpu.host.host_info import Settings
from tpu.launch.bundle import bundle, digest
from tpu.launch.decide import ATTEMPT

FILE = "launch.json"
_HANG_TIMEOUT = 1200  # seconds; a hanging slice costs money
MANAGED_BY = ("managed-by", "bert-jax")  # label of every resource
SPEC = "bert-jax-spec"
STARTUP = "startup-script"
# Attributes of TpuConfig that may change without a new launch.
_LENIENT = ("zones", "max_wait", "max_failures", "max_preemptions")
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|\bya29\.[\w-]+|\bAIza[\w-]{30,}|\bhf_\w{20,}|(?<=://)[^/\s:@\"]+:[^/\s@\"]+(?=@)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Launch:
    """A submitted run.

    Attributes:
        name: Name of the queued resource, one per run folder.
        run: Folder of the run.
        project: Project that pays for the slice.
        tpu: The slice.
        manifest: SHA-256 of RUN/launch/SHA256SUMS.
        first: Number of the first attempt of this submission.
    """

    name: str
    run: str
    project: str
    tpu: TpuConfig
    manifest: str
    first: int = 1

    @property
    def spec(self) -> str:
        """SHA-256 that identifies the launch."""
        content = asdict(replace(self, first=1))
        content["tpu"] = {k: v for k, v in content["tpu"].items() if k not in _LENIENT}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def hosts(self) -> int:
        """Number of TPU VMs according to accelerators.yaml."""
        return self.tpu.slice.hosts * self.tpu.slices

    def text(self) -> str:
        """Return the content of RUN/launch/launch.json."""
        return json.dumps(asdict(self), indent=1) + "\n"


def prepare(config: SubmittedConfig, **settings: Any) -> tuple[Launch, dict[str, bytes]]:
    """Return the launch of a config and the files of its bundle.

    Args:
        config: Config of the run.
        settings: Fields of `host_info.Settings` that differ from their defaults.

    Raises:
        BadArgumentsError: The accelerator is unknown.
        BadInputError: The config cannot be submitted.
    """
    config = _absolute(complete(config))
    if not config.train.hang_timeout:
        say(f"train.hang_timeout is not set; using {_HANG_TIMEOUT} seconds")
        train = replace(config.train, hang_timeout=_HANG_TIMEOUT)
        config = replace(config, train=train)
    devices = settings.pop("devices", config.tpu.slice.devices * config.tpu.slices)
    for phase in config.phases:
        if phase.batch_size % (devices * config.train.accumulate):
            raise BadInputError(
                f"a batch of {phase.batch_size} rows cannot be divided among {devices} devices"
                f" ({config.tpu.slices} x {config.tpu.accelerator}) and train.accumulate"
                f" {config.train.accumulate}; choose a multiple of their product"
            )
    files = bundle(config, Settings(devices, config.train.hang_timeout, **settings))
    run = config.run_dir.rstrip("/")
    launch = Launch(
        name_of(run), run, resolve_project(config.tpu.project), config.tpu, digest(files)
    )
    return launch, files


def _absolute(config: SubmittedConfig) -> SubmittedConfig:
    """Make paths independent of the working directory."""

    def absolute(path: str) -> str:
        is_elsewhere = path.startswith(("gs://", HUB)) or not path
        return path if is_elsewhere else str(Path(path).absolute())

    stores = tuple(replace(x, path=absolute(x.path)) for x in config.data.stores)
    return replace(
        config,
        run_dir=absolute(config.run_dir),
        data=replace(config.data, store=absolute(config.data.store), stores=stores),
        init=absolute(config.init),
    )


def read_launch(run: Path) -> Launch:
    """Read the launch of a run folder.

    Raises:
        BadInputError: The run was not submitted, or the file is damaged.
    """
    path = run / RUN_LAUNCH / FILE
    try:
        content = json.loads(status_files.read_text(path))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
        launch = config_from_dict(content, str(path), Launch)
        if not launch.tpu.zones:
            raise ValueError("tpu.zones is empty")
        return launch
    except (FileNotFoundError, NotADirectoryError):
        raise BadInputError(
            f"{run} was not submitted (it has no {RUN_LAUNCH}/{FILE}); run bert-jax tpu submit"
        ) from None
    except BadInputError as error:
        raise BadInputError(f"{error}; submit again") from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path} is damaged or from another version of bert-jax ({error}); submit again"
        ) from None


def name_of(run: str) -> str:
    """Return the name of the queued resource of a run: readable and unique."""
    run = run.rstrip("/")
    readable = re.sub(r"[^a-z0-9]+", "-", run.rpartition("/")[2].lower()).strip("-")
    return f"bert-{readable[:40]}-{hashlib.sha256(run.encode()).hexdigest()[:6]}".replace("--", "-")


def queued_resource(launch: Launch, zone: str, attempt: int) -> tpu_v2.QueuedResource:
    """Return the request for a slice."""
    tpu = launch.tpu
    node = tpu_v2.Node(
        accelerator_type=tpu.slice.name,
        runtime_version=tpu.runtime_version,
        network_config=tpu_v2.NetworkConfig(
            network=tpu.network,
            subnetwork=tpu.subnetwork,
            enable_external_ips=not tpu.internal_ip,
        ),
        labels=dict([MANAGED_BY]),
        metadata={
            STARTUP: startup_script(),
            "bert-jax-run": launch.run,
            "bert-jax-manifest": launch.manifest,
            SPEC: launch.spec,
            ATTEMPT: str(attempt),
        },
    )
    if tpu.service_account:
        node.service_account = tpu_v2.ServiceAccount(email=tpu.service_account, scope=[_SCOPE])
    node_spec = tpu_v2.QueuedResource.Tpu.NodeSpec(
        parent=f"projects/{launch.project}/locations/{zone}", node=node
    )
    if tpu.slices == 1:
        # A new id for every attempt: a node may outlive its resource for a while.
        node_spec.node_id = f"{launch.name}-{attempt}"
    else:
        node_spec.multislice_params = tpu_v2.QueuedResource.Tpu.NodeSpec.MultisliceParams(
            node_count=tpu.slices, node_id_prefix=f"{launch.name}-{attempt}"
        )
    resource = tpu_v2.QueuedResource(tpu=tpu_v2.QueuedResource.Tpu(node_spec=[node_spec]))
    if tpu.capacity == "spot":
        resource.spot = tpu_v2.QueuedResource.Spot()
    elif tpu.capacity == "reserved":  # any reservation of the project in the zone
        resource.reservation_name = f"{node_spec.parent}/reservations/-"
    return resource


def startup_script() -> str:
    """Return the script that every host runs at every boot."""
    return (Path(__file__).parents[1] / "host/startup.sh").read_text("utf-8")


def redacted(text: str) -> str:
    """Return `text` without secrets: known patterns, and values of environment variables."""
    for name, value in os.environ.items():
        # The path of a key file is not a secret; os.path.exists accepts any text.
        if _SECRET_NAMES.search(name) and len(value) >= 8 and not os.path.exists(value):  # noqa: PTH110
            text = text.replace(value, "[redacted]")
    return _SECRETS.sub("[redacted]", text)
