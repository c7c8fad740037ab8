"""The section ``tpu`` of a run's config: which slice, where, and what it may cost in attempts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import BadInputError, at_least
from pipelines.settings import read_config
from tpu.slices import Slice, find

_ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
# What a path of a run may consist of; it becomes part of scripts' arguments and of object names.
_PLAIN = re.compile(r"(gs://[a-z0-9._-]{3,}|)/?[A-Za-z0-9._=@-]+(/[A-Za-z0-9._=@-]+)*/?")


@dataclass(frozen=True)
class TpuConfig:
    """A Cloud TPU slice.

    Args:
        accelerator: Its type, such as v5litepod-16; python -m tpu types lists all.
        zones: Where it may be, in the order in which they are tried.
        project: Google Cloud project; empty = the environment's GOOGLE_CLOUD_PROJECT.
        capacity: spot (cheap, may be taken away at any time), on-demand or reserved.
        slices: How many slices train together.
        runtime: Software version of the TPU VMs; auto = the one for this accelerator.
        service_account: E-mail of the account that the VMs act as; empty = the project's default.
        network: VPC network; empty = default.
        subnetwork: Of the network.
        internal_ip: Whether the VMs have no external address (they then need Private Google Access
            for the bucket, and Cloud NAT or a mirror for PyPI).
        max_wait: Seconds to wait for capacity in a zone before the next one is tried.
        max_failures: Attempts without a new step, for reasons other than preemption, before it
            is given up.
        max_preemptions: Attempts that may be lost to preemption; 0 = any number.
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
        """Checks names and ranges."""
        at_least("tpu", self, 1, "slices max_wait max_failures")
        at_least("tpu", self, 0, "max_preemptions")
        for zone in self.zones:
            if not _ZONE.fullmatch(zone):
                raise BadInputError(f"tpu.zones: {zone!r} is no zone; one is such as us-west4-a")

    @property
    def slice(self) -> Slice:
        """One of its slices; `tpu.slices.find` tells the errors."""
        return find(self.accelerator)

    @property
    def runtime_version(self) -> str:
        """Software version of the TPU VMs."""
        return self.slice.generation.runtime if self.runtime == "auto" else self.runtime


@dataclass(frozen=True)
class SubmittedConfig(RunConfig):
    """A pre-training run and where it runs.

    Args:
        tpu: The slice.
    """

    tpu: TpuConfig = field(default_factory=TpuConfig)

    def __post_init__(self) -> None:
        """Refuses what the machines have not installed, and no key for."""
        super().__post_init__()
        if self.wandb:
            raise BadInputError(
                "wandb is not there on slices; leave it out, and look at the run with:"
                f" tensorboard --logdir {self.run_dir}"
            )

    @property
    def run(self) -> RunConfig:
        """What the machines are given."""
        return RunConfig(**{key.name: getattr(self, key.name) for key in fields(RunConfig)})


def read(parser: Any, argv: Sequence[str]) -> tuple[SubmittedConfig, dict[str, Any]]:
    """The config of a command, whose file may stand first; see `pipelines.settings.read_config`."""
    given = list(argv)
    if given and not given[0].startswith("-"):
        given.insert(0, "--config")
    return read_config(parser, given, SubmittedConfig)


def complete(config: SubmittedConfig) -> SubmittedConfig:
    """Refuses a config that does not say where to run.

    Raises:
        BadArgumentsError: The accelerator is unknown.
        BadInputError: Something is missing, or its name cannot be used.
    """
    if not config.tpu.accelerator:
        raise BadInputError("tpu.accelerator is not set; python -m tpu types lists what there is")
    _ = config.tpu.slice
    if not config.tpu.zones:
        raise BadInputError("tpu.zones is not set; give one or more, such as [us-west4-a]")
    if not config.data.store:
        raise BadInputError("data.store is not set; give a folder made by bert-jax prepare")
    account = config.tpu.service_account
    if account and "@" not in account:
        raise BadInputError(
            f"tpu.service_account {account!r} must be its e-mail address, such as"
            f" {account}@PROJECT.iam.gserviceaccount.com"
        )
    if re.fullmatch(r"gs://[^/]*/?", config.run_dir):
        raise BadInputError(f"run_dir {config.run_dir} is a whole bucket; add a name to it")
    for name, path in (("run_dir", config.run_dir), ("data.store", config.data.store)):
        if re.match(r"[a-z0-9]+:/", path) and not path.startswith("gs://"):
            raise BadInputError(f"{name} {path}: write gs://BUCKET/NAME, or the path of a folder")
        if path.startswith("gs://YOUR-BUCKET"):
            raise BadInputError(f"{name} {path}: put your own bucket in the place of YOUR-BUCKET")
        if not _PLAIN.fullmatch(path):
            raise BadInputError(
                f"{name} {path!r}: on TPU VMs a path may have letters, digits and ._=@- between"
                " its slashes, and nothing else"
            )
    return config


def project_of(given: str) -> str:
    """The project that is named, or the environment's.

    Raises:
        BadInputError: There is none.
    """
    project = given or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    if not project:
        raise BadInputError(
            "tpu.project is not set; set it, or GOOGLE_CLOUD_PROJECT in the environment (gcloud"
            " config get project tells yours)"
        )
    if not re.fullmatch(r"[a-z][a-z0-9.:-]{4,61}[a-z0-9]", project):
        what = "is the number of a project" if project.isdecimal() else "is no project id"
        raise BadInputError(
            f"tpu.project {project!r} {what}; give the id (gcloud projects list tells it)"
        )
    return project
