"""Cloud TPU in memory: queued resources that are granted, taken back, fail and are deleted.

`rest` and `grpc_server` put it behind the two protocols of the real API.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from google.cloud import tpu_v2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2, status_pb2

from tpu.rehearsal.fake_clock import Clock
from tpu.rehearsal.fake_nodes import endpoints, new_nodes, node_names
from tpu.rehearsal.fake_states import AUTOMATIC, DELETABLE, after
from tpu.rehearsal.fake_validation import ApiError, Zones, check_place, check_resource
from tpu.slices import find

Workers = dict[str, tuple[str, ...]]  # node id -> addresses of its workers, in order
Told = Callable[[tpu_v2.QueuedResource, Workers], None]

_PAGE = 100  # resources in one answer


@dataclass(frozen=True)
class Delays:
    """Seconds in each state; None to stay there until the test says."""

    creating: float | None = 0.0
    waiting_for_resources: float | None = 0.1
    provisioning: float | None = 0.1
    suspending: float | None = 0.1
    deleting: float | None = 0.1


STILL = Delays(None, None, None, None, None)  # nothing happens of itself


@dataclass
class _Record:
    """A queued resource, its nodes by id, and the operation that waits for its next state."""

    resource: tpu_v2.QueuedResource
    nodes: dict[str, tpu_v2.Node] = field(default_factory=dict)
    operation: operations_pb2.Operation | None = None

    @property
    def state(self) -> str:
        state = self.resource.state.state
        return state.name if state else ""


class FakeCloud:
    """The Cloud TPU API of all projects.

    Attributes:
        calls: Names of the last RPCs and their requests, refused ones too.
    """

    def __init__(
        self,
        delays: Delays = Delays(),
        zones: Zones = None,
        quota: int | None = None,
        addresses: Callable[[str, int], Sequence[str]] | None = None,
        on_active: Told | None = None,
        on_gone: Told | None = None,
    ) -> None:
        """Starts one.

        Args:
            delays: How long things take.
            zones: Accelerator types by zone; all in all zones where this is None.
            quota: Queued resources that a zone may hold, whatever their state.
            addresses: Of the workers of a node, from its id and their number; of 127.0.0.0/8
                where this is None.
            on_active: Called when nodes are ready, one call at a time, never for long.
            on_gone: Called when workers are about to be taken away.
        """
        self.calls: deque[tuple[str, Any]] = deque(maxlen=1000)
        self._delays = delays
        self._zones = zones
        self._quota = quota
        self._addresses = addresses or self._loopback
        self._told = {"active": on_active, "gone": on_gone}
        self._records: dict[str, _Record] = {}
        self._operations: dict[str, operations_pb2.Operation] = {}
        self._faults: deque[tuple[str, ApiError]] = deque()
        self._workers = 0
        self._lock = threading.RLock()
        self._clock = Clock()
        self._rpcs: dict[str, Callable[[Any], Any]] = {
            "CreateQueuedResource": self._create,
            "GetQueuedResource": lambda request: self._record(request.name).resource,
            "ListQueuedResources": self._list,
            "DeleteQueuedResource": self._delete,
            "GetNode": lambda request: self._node(request.name)[1],
            "ListNodes": self._list_nodes,
            "DeleteNode": self._delete_node,
            "GetGuestAttributes": self._guest_attributes,
            "GetOperation": self._operation,
        }

    # What a front-end calls.

    def call(self, rpc: str, request: Any) -> Any:
        """The answer to an RPC.

        Raises:
            ApiError: It is refused.
        """
        with self._lock:
            self.calls.append((rpc, request))
            if self._faults and self._faults[0][0] in ("", rpc):
                raise self._faults.popleft()[1]
            if rpc not in self._rpcs:
                raise ApiError("UNIMPLEMENTED", f"The fake has no {rpc}.")
            # A copy: the cloud may change while the answer is being sent.
            return deepcopy(self._rpcs[rpc](request))

    # What a test or an emulator does to the cloud. `name` is a short or a full one.

    def refuse(self, status: str, message: str, times: int = 1, rpc: str = "") -> None:
        """Makes the next calls fail, of one RPC or of any."""
        with self._lock:
            self._faults.extend([(rpc, ApiError(status, message))] * times)

    def advance(self, name: str) -> None:
        """Does now what would happen next of itself: admission, a grant, the end of a deletion."""
        with self._lock:
            self._event(name, AUTOMATIC[self._found(name).state])

    def preempt(self, name: str, by: str = "SERVICE") -> None:
        """Takes all slices back; `by` is USER where somebody deleted the nodes."""
        with self._lock:
            record = self._found(name)
            self._event(name, "suspend", by)
            for node in record.nodes.values():
                node.state = "PREEMPTED" if by == "SERVICE" else "DELETING"

    def fail(self, name: str, code: int, message: str) -> None:
        """Ends a request that is not met yet, with a code of google.rpc.Code."""
        with self._lock:
            record = self._found(name)
            error = status_pb2.Status(code=code, message=message)
            if record.state == "CREATING":
                self._done(record, error)
            self._event(name, "fail")
            record.resource.state.failed_data = {"error": error}

    def maintenance(self, name: str, over: bool = False) -> None:
        """Begins or ends maintenance of its nodes."""
        with self._lock:
            for node in self._found(name).nodes.values():
                node.health = "HEALTHY" if over else "UNHEALTHY_MAINTENANCE"

    def node_preempted(self, name: str, node_id: str = "") -> None:
        """Takes one node back, the first unless named; its resource stays ACTIVE."""
        with self._lock:
            record = self._found(name)
            node_id = node_id or next(iter(record.nodes))
            record.nodes[node_id].state = tpu_v2.Node.State.PREEMPTED
            self._tell("gone", record, [node_id])

    def node_gone(self, name: str, node_id: str = "") -> None:
        """Removes one node without a trace; its resource stays ACTIVE."""
        with self._lock:
            record = self._found(name)
            node_id = node_id or next(iter(record.nodes))
            self._tell("gone", record, [node_id])
            del record.nodes[node_id]

    def state(self, name: str) -> str:
        """Of a resource; "" where there is none."""
        with self._lock:
            names = {one for full in self._records for one in (full, full.rpartition("/")[2])}
            return self._found(name).state if name in names else ""

    def close(self) -> None:
        """Stops; raises what a callback raised."""
        self._clock.close()

    # Steps from state to state.

    def _event(self, name: str, event: str, initiator: str = "") -> None:
        with self._lock:
            record = self._found(name)
            if after(record.state, event) is None:
                raise ValueError(f"{name} is {record.state}: {event} cannot happen")
            self._step(record, event, initiator)

    def _step(self, record: _Record, event: str, initiator: str = "") -> None:
        """Puts a resource in its next state, and lets the one after follow in time."""
        state = after(record.state, event)
        if not state:
            del self._records[record.resource.name]
            self._done(record)
            return
        initiator = initiator or record.resource.state.state_initiator.name
        record.resource.state = {"state": state}
        if state in ("SUSPENDING", "SUSPENDED"):
            record.resource.state.state_initiator = initiator
        self._in(record, state)
        seconds = getattr(self._delays, state.lower(), None)
        following = AUTOMATIC.get(state)
        if following is not None and seconds is not None:
            self._clock.after(seconds, lambda: self._later(record, state, following))

    def _later(self, record: _Record, state: str, event: str) -> None:
        with self._lock:
            # Something else has happened meanwhile, or the name is another resource's now.
            if self._records.get(record.resource.name) is record and record.state == state:
                self._step(record, event)

    def _in(self, record: _Record, state: str) -> None:
        """What a state means for the nodes and for the operation that is waited for."""
        if state == "PROVISIONING":
            record.nodes = new_nodes(record.resource)
        elif state == "ACTIVE":
            for node_id, node in record.nodes.items():
                node.state = tpu_v2.Node.State.READY
                node.health = tpu_v2.Node.Health.HEALTHY
                count = find(node.accelerator_type).hosts
                node.network_endpoints = endpoints(node, self._addresses(node_id, count))
            self._tell("active", record, record.nodes)
        elif state in ("SUSPENDING", "DELETING"):
            self._tell("gone", record, record.nodes)
            for node in record.nodes.values():
                node.state = tpu_v2.Node.State.DELETING
        elif state in ("SUSPENDED", "FAILED"):
            record.nodes = {}
        if state == "WAITING_FOR_RESOURCES":
            self._done(record)

    def _tell(self, what: str, record: _Record, node_ids: Collection[str]) -> None:
        told = self._told[what]
        workers = {
            node_id: tuple(one.ip_address for one in record.nodes[node_id].network_endpoints)
            for node_id in node_ids
        }
        if told is not None and any(workers.values()):
            copy = deepcopy(record.resource)
            # In the order of events, and without the lock.
            self._clock.after(0, lambda: told(copy, workers))

    def _loopback(self, node_id: str, count: int) -> list[str]:
        first = ip_address("127.16.0.2") + self._workers
        self._workers += count
        return [str(first + index) for index in range(count)]

    # Answers.

    def _create(self, request: tpu_v2.CreateQueuedResourceRequest) -> operations_pb2.Operation:
        name = f"{request.parent}/queuedResources/{request.queued_resource_id}"
        resource = tpu_v2.QueuedResource(request.queued_resource)
        resource.name = name
        resource.create_time = datetime.now(UTC)
        check_resource(resource, self._zones)
        nodes = {node for one in self._records.values() for node in node_names(one.resource)}
        for taken in [name] if name in self._records else nodes.intersection(node_names(resource)):
            raise ApiError("ALREADY_EXISTS", f"Resource '{taken}' already exists")
        held = sum(full.startswith(f"{request.parent}/") for full in self._records)
        if self._quota is not None and held >= self._quota:
            raise ApiError(
                "RESOURCE_EXHAUSTED",
                "Quota 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' exhausted. Limit"
                f" {self._quota} in zone {request.parent.rpartition('/')[2]}",
            )
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
        self._done(record, status_pb2.Status(code=code_pb2.ABORTED, message="deleted meanwhile"))
        record.operation = self._new_operation(request.name, "delete")
        self._step(record, "delete")
        return record.operation

    def _delete_node(self, request: tpu_v2.DeleteNodeRequest) -> operations_pb2.Operation:
        record, _ = self._node(request.name)
        short = request.name.rpartition("/")[2]
        self._tell("gone", record, [short])
        del record.nodes[short]
        if not record.nodes and after(record.state, "suspend"):
            self._step(record, "suspend", "USER")
        operation = self._new_operation(request.name, "delete")
        operation.response.Pack(empty_pb2.Empty())
        operation.done = True
        return operation

    def _list(
        self, request: tpu_v2.ListQueuedResourcesRequest
    ) -> tpu_v2.ListQueuedResourcesResponse:
        check_place(request.parent, self._zones)
        found = [
            one.resource
            for full, one in self._records.items()
            if full.startswith(f"{request.parent}/")
        ]
        first = int(request.page_token or 0)
        last = first + min(request.page_size or _PAGE, _PAGE)
        return tpu_v2.ListQueuedResourcesResponse(
            queued_resources=found[first:last],
            next_page_token=str(last) if last < len(found) else "",
        )

    def _list_nodes(self, request: tpu_v2.ListNodesRequest) -> tpu_v2.ListNodesResponse:
        check_place(request.parent, self._zones)
        return tpu_v2.ListNodesResponse(
            nodes=[
                node
                for full, record in self._records.items()
                if full.startswith(f"{request.parent}/")
                for node in record.nodes.values()
            ]
        )

    def _guest_attributes(
        self, request: tpu_v2.GetGuestAttributesRequest
    ) -> tpu_v2.GetGuestAttributesResponse:
        """None, of the workers asked for; gcloud looks here for host keys and goes on without."""
        workers = [one for one in request.worker_ids if one]
        count = len(workers or self._node(request.name)[1].network_endpoints)
        empty = tpu_v2.GuestAttributes(query_value=tpu_v2.GuestAttributesValue())
        return tpu_v2.GetGuestAttributesResponse(guest_attributes=[empty] * count)

    def _record(self, name: str) -> _Record:
        check_place(name.partition("/queuedResources/")[0], self._zones)
        if name not in self._records:
            raise ApiError("NOT_FOUND", f"Resource '{name}' was not found")
        return self._records[name]

    def _node(self, name: str) -> tuple[_Record, tpu_v2.Node]:
        place, _, short = name.partition("/nodes/")
        check_place(place, self._zones)
        for full, record in self._records.items():
            if full.startswith(f"{place}/") and short in record.nodes:
                return record, record.nodes[short]
        raise ApiError("NOT_FOUND", f"Resource '{name}' was not found")

    def _found(self, name: str) -> _Record:
        """By the short name or the full one."""
        found = [
            record
            for full, record in self._records.items()
            if name in (full, full.rpartition("/")[2])
        ]
        if len(found) != 1:
            raise ValueError(f"{len(found)} queued resources are called {name!r}")
        return found[0]

    def _new_operation(self, target: str, verb: str) -> operations_pb2.Operation:
        place = "/".join(target.split("/")[:4])
        name = f"{place}/operations/operation-{len(self._operations)}"
        operation = self._operations[name] = operations_pb2.Operation(name=name)
        metadata = tpu_v2.OperationMetadata(target=target, verb=verb, api_version="v2")
        operation.metadata.Pack(tpu_v2.OperationMetadata.pb(metadata))
        return operation

    def _operation(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        if request.name not in self._operations:
            raise ApiError("NOT_FOUND", f"Operation '{request.name}' was not found")
        return self._operations[request.name]

    def _done(self, record: _Record, error: status_pb2.Status | None = None) -> None:
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
