"""Cloud TPU in memory: queued resources that are granted, preempted, fail and are deleted.

`fake_rest` serves it over HTTP. The tests extend it, and also serve it over gRPC.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.cloud import tpu_v2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2, status_pb2

from bert_jax.config.accelerators import find_slice
from tpu.rehearsal.fake_clock import FakeClock
from tpu.rehearsal.fake_states import AUTOMATIC, DELETABLE, after
from tpu.rehearsal.fake_validation import (
    ApiError,
    Zones,
    check_location,
    check_resource,
    node_names,
)

Workers = dict[str, tuple[str, ...]]  # node id -> addresses of its hosts, in order
Callback = Callable[[tpu_v2.QueuedResource, Workers], None]

_PAGE = 100  # resources in one answer


@dataclass(frozen=True)
class Delays:
    """Seconds in each state; None = forever, unless a test changes it."""

    creating: float | None = 0.0
    waiting_for_resources: float | None = 0.1
    provisioning: float | None = 0.1
    suspending: float | None = 0.1
    deleting: float | None = 0.1


@dataclass
class _Record:
    """A queued resource, its nodes by id and its pending operation."""

    resource: tpu_v2.QueuedResource
    nodes: dict[str, tpu_v2.Node] = field(default_factory=dict)
    operation: operations_pb2.Operation | None = None

    @property
    def state(self) -> str:
        state = self.resource.state.state
        return state.name if state else ""


class FakeCloud:
    """The Cloud TPU API of all projects."""

    def __init__(
        self,
        delays: Delays,
        addresses: Callable[[str, int], Sequence[str]],
        zones: Zones = None,
        on_active: Callback | None = None,
        on_gone: Callback | None = None,
    ) -> None:
        """Start the clock.

        Args:
            delays: Time in each state.
            addresses: (id of a node, number of hosts) -> addresses.
            zones: Accelerator types by zone; None = all types in all zones.
            on_active: Called when nodes are ready; must be short.
            on_gone: Called before hosts are removed.
        """
        self._delays = delays
        self._zones = zones
        self._addresses = addresses
        self._callbacks = {"active": on_active, "gone": on_gone}
        self._records: dict[str, _Record] = {}
        self._operations: dict[str, operations_pb2.Operation] = {}
        self._lock = threading.RLock()
        self._clock = FakeClock()
        self._rpcs: dict[str, Callable[[Any], Any]] = {
            "CreateQueuedResource": self._create,
            "GetQueuedResource": lambda request: self._record(request.name).resource,
            "ListQueuedResources": self._list,
            "DeleteQueuedResource": self._delete,
            "GetNode": lambda request: self._node(request.name)[1],
            "GetOperation": self._operation,
        }

    # For the servers.

    def call(self, rpc: str, request: Any) -> Any:
        """Answer an RPC.

        Raises:
            ApiError: The request is refused.
        """
        with self._lock:
            if rpc not in self._rpcs:
                raise ApiError("UNIMPLEMENTED", f"The fake has no {rpc}.")
            # A copy: the cloud may change while the answer is being sent.
            return deepcopy(self._rpcs[rpc](request))

    # For rehearsals.

    def preempt(self, name: str, by: str = "SERVICE") -> None:
        """Preempt all slices; `by` is USER if a user deleted the nodes."""
        with self._lock:
            record = self._get(name)
            self._event(name, "suspend", by)
            for node in record.nodes.values():
                node.state = "PREEMPTED" if by == "SERVICE" else "DELETING"

    def close(self) -> None:
        """Stop the clock; raise what a callback raised."""
        self._clock.close()

    # Transitions.

    def _event(self, name: str, event: str, initiator: str = "") -> None:
        with self._lock:
            record = self._get(name)
            if after(record.state, event) is None:
                raise ValueError(f"{name} is {record.state}: {event} cannot happen")
            self._step(record, event, initiator)

    def _step(self, record: _Record, event: str, initiator: str = "") -> None:
        """Go to the next state, and schedule the one after it."""
        state = after(record.state, event)
        if not state:
            del self._records[record.resource.name]
            self._complete(record)
            return
        initiator = initiator or record.resource.state.state_initiator.name
        record.resource.state = {"state": state}
        if state in ("SUSPENDING", "SUSPENDED"):
            record.resource.state.state_initiator = initiator
        self._enter(record, state)
        seconds = getattr(self._delays, state.lower(), None)
        following = AUTOMATIC.get(state)
        if following is not None and seconds is not None:
            self._clock.after(seconds, lambda: self._step_later(record, state, following))

    def _step_later(self, record: _Record, state: str, event: str) -> None:
        with self._lock:
            # Unless the state changed meanwhile, or the name belongs to another resource now.
            if self._records.get(record.resource.name) is record and record.state == state:
                self._step(record, event)

    def _enter(self, record: _Record, state: str) -> None:
        """Update nodes and operation for a new state."""
        if state == "PROVISIONING":
            record.nodes = _new_nodes(record.resource)
        elif state == "ACTIVE":
            for node_id, node in record.nodes.items():
                node.state = tpu_v2.Node.State.READY
                node.health = tpu_v2.Node.Health.HEALTHY
                count = find_slice(node.accelerator_type).hosts
                node.network_endpoints = _endpoints(node, self._addresses(node_id, count))
            self._notify("active", record, record.nodes)
        elif state in ("SUSPENDING", "DELETING"):
            self._notify("gone", record, record.nodes)
            for node in record.nodes.values():
                node.state = tpu_v2.Node.State.DELETING
        elif state in ("SUSPENDED", "FAILED"):
            record.nodes = {}
        if state == "WAITING_FOR_RESOURCES":
            self._complete(record)

    def _notify(self, event: str, record: _Record, node_ids: Collection[str]) -> None:
        callback = self._callbacks[event]
        workers = {
            node_id: tuple(host.ip_address for host in record.nodes[node_id].network_endpoints)
            for node_id in node_ids
        }
        if callback is not None and any(workers.values()):
            copy = deepcopy(record.resource)
            # On the clock: in the order of events, and without the lock.
            self._clock.after(0, lambda: callback(copy, workers))

    # RPCs.

    def _create(self, request: tpu_v2.CreateQueuedResourceRequest) -> operations_pb2.Operation:
        name = f"{request.parent}/queuedResources/{request.queued_resource_id}"
        resource = tpu_v2.QueuedResource(request.queued_resource)
        resource.name = name
        resource.create_time = datetime.now(UTC)
        check_resource(resource, self._zones)
        nodes = {node for r in self._records.values() for node in node_names(r.resource)}
        for taken in [name] if name in self._records else nodes.intersection(node_names(resource)):
            raise ApiError("ALREADY_EXISTS", f"Resource '{taken}' already exists")
        record = self._records[name] = _Record(resource)
        record.operation = self._new_operation(name, "create")
        self._step(record, "create")
        return record.operation

    def _delete(self, request: tpu_v2.DeleteQueuedResourceRequest) -> operations_pb2.Operation:
        record = self._record(request.name)
        if record.state == "DELETING":
            raise ApiError("FAILED_PRECONDITION", f"Resource '{request.name}' is being deleted")
        if not request.force and record.state not in DELETABLE and record.nodes:
            raise ApiError(
                "FAILED_PRECONDITION",
                f"Resource '{request.name}' is {record.state}: delete its nodes first or set force",
            )
        self._complete(
            record, status_pb2.Status(code=code_pb2.ABORTED, message="deleted meanwhile")
        )
        record.operation = self._new_operation(request.name, "delete")
        self._step(record, "delete")
        return record.operation

    def _list(
        self, request: tpu_v2.ListQueuedResourcesRequest
    ) -> tpu_v2.ListQueuedResourcesResponse:
        check_location(request.parent, self._zones)
        resources = [
            record.resource
            for name, record in self._records.items()
            if name.startswith(f"{request.parent}/")
        ]
        first = int(request.page_token or 0)
        last = first + min(request.page_size or _PAGE, _PAGE)
        return tpu_v2.ListQueuedResourcesResponse(
            queued_resources=resources[first:last],
            next_page_token=str(last) if last < len(resources) else "",
        )

    def _record(self, name: str) -> _Record:
        check_location(name.partition("/queuedResources/")[0], self._zones)
        if name not in self._records:
            raise ApiError("NOT_FOUND", f"Resource '{name}' was not found")
        return self._records[name]

    def _node(self, name: str) -> tuple[_Record, tpu_v2.Node]:
        location, _, node_id = name.partition("/nodes/")
        check_location(location, self._zones)
        for resource_name, record in self._records.items():
            if resource_name.startswith(f"{location}/") and node_id in record.nodes:
                return record, record.nodes[node_id]
        raise ApiError("NOT_FOUND", f"Resource '{name}' was not found")

    def _get(self, name: str) -> _Record:
        """Look up a resource by its short or full name."""
        records = [
            record
            for full_name, record in self._records.items()
            if name in (full_name, full_name.rpartition("/")[2])
        ]
        if len(records) != 1:
            raise LookupError(f"{len(records)} queued resources are named {name!r}")
        return records[0]

    def _new_operation(self, target: str, verb: str) -> operations_pb2.Operation:
        location = "/".join(target.split("/")[:4])
        name = f"{location}/operations/operation-{len(self._operations)}"
        operation = self._operations[name] = operations_pb2.Operation(name=name)
        metadata = tpu_v2.OperationMetadata(target=target, verb=verb, api_version="v2")
        operation.metadata.Pack(tpu_v2.OperationMetadata.pb(metadata))
        return operation

    def _operation(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        if request.name not in self._operations:
            raise ApiError("NOT_FOUND", f"Operation '{request.name}' was not found")
        return self._operations[request.name]

    def _complete(self, record: _Record, error: status_pb2.Status | None = None) -> None:
        operation = record.operation
        if operation is None or operation.done:
            return
        if error is not None:
            operation.error.CopyFrom(error)
        elif record.state == "DELETING":
            operation.response.Pack(empty_pb2.Empty())
        else:
            operation.response.Pack(tpu_v2.QueuedResource.pb(record.resource))
        operation.done = True


def _new_nodes(resource: tpu_v2.QueuedResource) -> dict[str, tpu_v2.Node]:
    """Return its nodes by id, in order, in the state CREATING."""
    nodes = {}
    specs = [
        spec
        for spec in resource.tpu.node_spec
        for _ in range(max(1, spec.multislice_params.node_count))
    ]
    for path, spec in zip(node_names(resource), specs, strict=True):
        node = tpu_v2.Node(spec.node)
        node.name = path
        node.state = tpu_v2.Node.State.CREATING
        node.create_time = datetime.now(UTC)
        node.queued_resource = resource.name
        node.multislice_node = bool(spec.multislice_params)
        nodes[path.rpartition("/")[2]] = node
    return nodes


def _endpoints(node: tpu_v2.Node, addresses: Sequence[str]) -> list[tpu_v2.NetworkEndpoint]:
    """Return hosts at these addresses; internal and external ones are equal on one machine."""
    hosts = []
    for address in addresses:
        endpoint = tpu_v2.NetworkEndpoint(ip_address=address, port=8470)
        if node.network_config.enable_external_ips:
            endpoint.access_config = tpu_v2.AccessConfig(external_ip=address)
        hosts.append(endpoint)
    return hosts
