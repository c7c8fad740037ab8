"""The section ``tpu`` of a run config: slice, zones and limits."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bert_jax.config.accelerators import Slice, find_slice
from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import BadInputError, at_least
from pipelines.settings import read_config

_ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
# Paths become arguments of scripts and names of objects.
_SAFE_PATH = re.compile(r"(gs://[a-z0-9._-]{3,}|)/?[A-Za-z0-9._=@-]+(/[A-Za-z0-9._=@-]+)*/?")


@dataclass(frozen=True)
class TpuConfig:
    """A Cloud TPU slice.

    Args:
        accelerator: Accelerator type, such as v5litepod-16; see bert-jax tpu types.
        zones: Allowed zones, in the order in which they are tried.
        project: Google Cloud project; empty = GOOGLE_CLOUD_PROJECT of the environment.
        capacity: spot (cheap, may be preempted at any time), on-demand or reserved.
        slices: Number of slices that train together.
        runtime: Software version of the TPU VMs; auto = the one for this accelerator.
        service_account: E-mail address of the service account of the VMs; empty = the default of
            the project.
        network: VPC network; empty = default.
        subnetwork: Subnetwork of the network.
        internal_ip: Create VMs without external addresses. They then need Private Google Access
            for the bucket, and Cloud NAT or a mirror for PyPI.
        max_wait: Seconds to wait for capacity in a zone before the next one is tried.
        max_failures: Attempts in a row without a new step, not counting preemptions, before the
            run fails.
        max_preemptions: Attempts that may end in a preemption; 0 = unlimited.
    """

    accelerator: str = ""
    zones: tuple[str, ...] = ()
    project: str = ""
    capacity: Literal["spot", "on-demand", "reserved"] = "spot"
    slices: int = 1
    runtime: str = "auto"
    service_account: str = ""
    network: str = ""
    subnetwork: str = ""
    internal_ip: bool = False
    max_wait: int = 7200
    max_failures: int = 10
    max_preemptions: int = 0

    def __post_init__(self) -> None:
        at_least("tpu", self, 1, "slices max_wait max_failures")
        at_least("tpu", self, 0, "max_preemptions")
        for zone in self.zones:
            if not _ZONE.fullmatch(zone):
                raise BadInputError(f"tpu.zones: {zone!r} is not a zone; write it as us-west4-a")

    @property
    def slice(self) -> Slice:
        """The slice of this accelerator type; raises as `find_slice`."""
        return find_slice(self.accelerator)

    @property
    def runtime_version(self) -> str:
        """Software version of the TPU VMs."""
        return self.slice.generation.runtime if self.runtime == "auto" else self.runtime


@dataclass(frozen=True)
class SubmittedConfig(RunConfig):
    """A pre-training run and its slice.

    Args:
        tpu: The slice.
    """

    tpu: TpuConfig = field(default_factory=TpuConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wandb:
            raise BadInputError(
                "wandb is not installed on slices; remove the key and view the run with:"
                f" tensorboard --logdir {self.run_dir}"
            )

    @property
    def run(self) -> RunConfig:
        """The config without the slice."""
        return RunConfig(**{key.name: getattr(self, key.name) for key in fields(RunConfig)})


def read(parser: Any, argv: Sequence[str]) -> tuple[SubmittedConfig, dict[str, Any]]:
    """Read the config of a command; its file may be the first argument.

    Returns and raises as `pipelines.settings.read_config`.
    """
    options = list(argv)
    if options and not options[0].startswith("-"):
        options.insert(0, "--config")
    return read_config(parser, options, SubmittedConfig)


def complete(config: SubmittedConfig) -> SubmittedConfig:
    """Check that a config can be submitted, and return it.

    Raises:
        BadArgumentsError: The accelerator is unknown.
        BadInputError: A key is missing or its value cannot be used.
    """
    if not config.tpu.accelerator:
        raise BadInputError("tpu.accelerator is not set; choose one from bert-jax tpu types")
    _ = config.tpu.slice
    if not config.tpu.zones:
        raise BadInputError("tpu.zones is not set; set one or more zones, such as [us-west4-a]")
    if not config.data.paths:
        raise BadInputError("data.store is not set; set a folder made by bert-jax prepare")
    account = config.tpu.service_account
    if account and "@" not in account:
        raise BadInputError(
            f"tpu.service_account {account!r} is not an e-mail address; write"
            f" {account}@PROJECT.iam.gserviceaccount.com"
        )
    if re.fullmatch(r"gs://[^/]*/?", config.run_dir):
        raise BadInputError(f"run_dir {config.run_dir} is a whole bucket; add a name to it")
    for name, path in {"run_dir": config.run_dir, **config.data.paths}.items():
        if re.match(r"[a-z0-9]+:/", path) and not path.startswith("gs://"):
            raise BadInputError(f"{name} {path}: write gs://BUCKET/NAME or the path of a folder")
        if path.startswith("gs://YOUR-BUCKET"):
            raise BadInputError(f"{name} {path}: replace YOUR-BUCKET with your bucket")
        if not _SAFE_PATH.fullmatch(path):
            raise BadInputError(
                f"{name} {path!r}: a path on TPU VMs may only contain letters, digits, ._=@- and"
                " slashes; rename the folder"
            )
    return config


def resolve_project(project: str) -> str:
    """Return the project, or that of the environment if it is empty.

    Raises:
        BadInputError: No project is set, or it is not a project id.
    """
    project = project or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    if not project:
        raise BadInputError(
            "tpu.project is not set; set it or the environment variable GOOGLE_CLOUD_PROJECT"
            " (yours: gcloud config get project)"
        )
    if not re.fullmatch(r"[a-z][a-z0-9.:-]{4,61}[a-z0-9]", project):
        kind = "a project number" if project.isdecimal() else "not a project id"
        raise BadInputError(
            f"tpu.project {project!r} is {kind}; set the id (listed by: gcloud projects list)"
        )
    return project
