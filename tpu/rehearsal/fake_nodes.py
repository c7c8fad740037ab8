"""The nodes of a queued resource."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from google.cloud import tpu_v2


def node_names(resource: tpu_v2.QueuedResource) -> list[str]:
    """Return the full names of the nodes that a resource requests."""
    location, _, short_name = resource.name.partition("/queuedResources/")
    names = []
    for spec in resource.tpu.node_spec:
        prefix = spec.multislice_params.node_id_prefix or short_name
        node_ids = [f"{prefix}-{index}" for index in range(spec.multislice_params.node_count)]
        names += [f"{location}/nodes/{node_id}" for node_id in node_ids or [spec.node_id]]
    return names


def new_nodes(resource: tpu_v2.QueuedResource) -> dict[str, tpu_v2.Node]:
    """Return its nodes by id, in order, in the state CREATING."""
    nodes = {}
    specs = [spec for spec in resource.tpu.node_spec for _ in range(_count(spec))]
    for path, spec in zip(node_names(resource), specs, strict=True):
        node = tpu_v2.Node(spec.node)
        node.name = path
        node.state = tpu_v2.Node.State.CREATING
        node.create_time = datetime.now(UTC)
        node.queued_resource = resource.name
        node.multislice_node = bool(spec.multislice_params)
        nodes[path.rpartition("/")[2]] = node
    return nodes


def endpoints(node: tpu_v2.Node, addresses: Sequence[str]) -> list[tpu_v2.NetworkEndpoint]:
    """Return hosts at these addresses; internal and external ones are equal on one machine."""
    hosts = []
    for address in addresses:
        endpoint = tpu_v2.NetworkEndpoint(ip_address=address, port=8470)
        if node.network_config.enable_external_ips:
            endpoint.access_config = tpu_v2.AccessConfig(external_ip=address)
        hosts.append(endpoint)
    return hosts


def _count(spec: tpu_v2.QueuedResource.Tpu.NodeSpec) -> int:
    return max(1, spec.multislice_params.node_count)
