"""Checks of requests by the API."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from google.cloud import tpu_v2

from bert_jax.config.accelerators import accelerators, slices

Zones = (
    Mapping[str, Collection[str]] | None
)  # accelerator types by zone; None = all types in all zones

# Stricter than the API documents for queued resources: ids of nodes become names of VMs,
# docs.cloud.google.com/compute/docs/naming-resources.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
# docs.cloud.google.com/resource-manager/docs/labels-overview
_LABEL = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")
_METADATA_BYTES = 262_144  # of one value, docs.cloud.google.com/compute/docs/metadata/overview

_RUNTIMES = {accelerator.runtime for accelerator in accelerators() if accelerator.runtime}


class ApiError(Exception):
    """An error answer of the API: name of a status, and a message."""

    def __init__(self, status: str, message: str) -> None:
        """Take a status such as NOT_FOUND."""
        super().__init__(message)
        self.status = status
        self.message = message


def bad(message: str) -> ApiError:
    """Return an INVALID_ARGUMENT with the generic sentence and an event id, as Cloud TPU does."""
    return ApiError(
        "INVALID_ARGUMENT", f"Cloud TPU received a bad request. {message} [EID: 0x1994f24467802754]"
    )


def check_location(parent: str, zones: Zones, creating: bool = False) -> str:
    """Return the zone of ``projects/P/locations/Z``.

    Raises:
        ApiError: The name or the zone is invalid.
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


def node_names(resource: tpu_v2.QueuedResource) -> list[str]:
    """Return the full names of the nodes that a resource requests."""
    location, _, short_name = resource.name.partition("/queuedResources/")
    names = []
    for spec in resource.tpu.node_spec:
        prefix = spec.multislice_params.node_id_prefix or short_name
        node_ids = [f"{prefix}-{index}" for index in range(spec.multislice_params.node_count)]
        names += [f"{location}/nodes/{node_id}" for node_id in node_ids or [spec.node_id]]
    return names


def check_resource(resource: tpu_v2.QueuedResource, zones: Zones) -> None:
    """Check a request for a resource.

    Raises:
        ApiError: It names something that does not exist, or breaks a rule.
    """
    location, _, name = resource.name.partition("/queuedResources/")
    zone = check_location(location, zones, creating=True)
    _check_name(name, "queued_resource_id")
    if not resource.tpu.node_spec:
        raise bad("tpu.node_spec is empty.")
    for spec in resource.tpu.node_spec:
        if spec.parent.partition("/locations/")[2] != zone:
            raise bad(f"node_spec.parent must be {location}, not {spec.parent!r}.")
        if spec.multislice_params and spec.multislice_params.node_count < 2:
            raise bad("multislice_params.node_count must be greater than 1.")
        _check_node(spec.node, zone, slices() if zones is None else zones[zone])
    for path in node_names(resource):
        _check_name(path.rpartition("/")[2], "node_id")


def _check_node(node: tpu_v2.Node, zone: str, types: Collection[str]) -> None:
    kind = node.accelerator_type
    if kind not in types:
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


def _check_name(name: str, field: str) -> None:
    if not _NAME.fullmatch(name):
        raise bad(f"Invalid {field} {name!r}: it must match {_NAME.pattern}.")
