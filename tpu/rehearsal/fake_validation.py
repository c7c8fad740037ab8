"""What the API refuses of a request before it does anything."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from google.cloud import tpu_v2

from tpu.rehearsal.fake_nodes import node_names
from tpu.slices import GENERATIONS, slices

Zones = Mapping[str, Collection[str]] | None  # accelerator types by zone; None: all in all

# Stricter than what the API says of the ids of queued resources: those of nodes become names of
# VMs, docs.cloud.google.com/compute/docs/naming-resources.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
# docs.cloud.google.com/resource-manager/docs/labels-overview
_LABEL = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")
_METADATA_BYTES = 262_144  # of one value, docs.cloud.google.com/compute/docs/metadata/overview

_RUNTIMES = {generation.runtime for generation in GENERATIONS}


class ApiError(Exception):
    """What the API answers instead of a result: the name of a status, and a message."""

    def __init__(self, status: str, message: str) -> None:
        """One with a status such as NOT_FOUND."""
        super().__init__(message)
        self.status = status
        self.message = message


def bad(message: str) -> ApiError:
    """A refusal in the words that Cloud TPU begins with, an event id at the end."""
    return ApiError(
        "INVALID_ARGUMENT", f"Cloud TPU received a bad request. {message} [EID: 0x1994f24467802754]"
    )


def check_place(parent: str, zones: Zones, creating: bool = False) -> str:
    """The zone of ``projects/P/locations/Z``.

    Raises:
        ApiError: It is none.
    """
    zone = parent.rpartition("/")[2]
    if re.fullmatch(r"projects/[^/]+/locations/[^/]+", parent) is None:
        raise bad(f"Invalid parent {parent!r}.")
    if zones is not None and zone not in zones:
        if creating:
            raise bad(f'The requested zone "{zone}" is not supported.')
        raise ApiError(
            "PERMISSION_DENIED", f"Location {zone} is not found or access is unauthorized."
        )
    return zone


def check_resource(resource: tpu_v2.QueuedResource, zones: Zones) -> None:
    """Refuses a request that cannot be met.

    Raises:
        ApiError: It names what is not there, or breaks a rule.
    """
    place, _, name = resource.name.partition("/queuedResources/")
    zone = check_place(place, zones, creating=True)
    _check_name(name, "queued_resource_id")
    if not resource.tpu.node_spec:
        raise bad("tpu.node_spec is empty.")
    for spec in resource.tpu.node_spec:
        if spec.parent.partition("/locations/")[2] != zone:
            raise bad(f"node_spec.parent must be {place}, not {spec.parent!r}.")
        if spec.multislice_params and spec.multislice_params.node_count < 2:
            raise bad("multislice_params.node_count must be greater than 1.")
        _check_node(spec.node, zone, slices() if zones is None else zones[zone])
    for path in node_names(resource):
        _check_name(path.rpartition("/")[2], "node_id")


def _check_node(node: tpu_v2.Node, zone: str, known: Collection[str]) -> None:
    kind = node.accelerator_type
    if kind not in known:
        raise bad(
            f'The requested accelerator configuration for accelerator type, "{kind}", could not be'
            f' found in the zonal accelerator configurations for "{zone}".; the accelerator {kind}'
            f" was not found in zone {zone}"
        )
    if node.runtime_version not in _RUNTIMES:
        raise bad(f'The runtime version "{node.runtime_version}" was not found in zone {zone}.')
    for key, value in node.labels.items():
        if not _LABEL.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise bad(f"Invalid label {key!r}: {value!r}.")
    for key, value in node.metadata.items():
        if len(value.encode()) > _METADATA_BYTES:
            raise bad(f"Value for metadata entry {key!r} is too large.")


def _check_name(name: str, which: str) -> None:
    if not _NAME.fullmatch(name):
        raise bad(f"Invalid {which} {name!r}: it must match {_NAME.pattern}.")
