"""The fake cloud with refusals and events on request, and the other methods that gcloud calls."""

from __future__ import annotations

from collections import deque
from ipaddress import ip_address
from typing import Any

from google.cloud import tpu_v2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import status_pb2

from tpu.rehearsal.fake_cloud import Delays, FakeCloud
from tpu.rehearsal.fake_states import AUTOMATIC, after
from tpu.rehearsal.fake_validation import ApiError, check_location

STILL = Delays(None, None, None, None, None)  # nothing happens by itself


class ScriptedCloud(FakeCloud):
    """A fake cloud that a test controls; `name` is a short or a full name of a resource.

    Attributes:
        calls: Names and requests of the last RPCs, also refused ones.
    """

    def __init__(self, delays: Delays = STILL, quota: int | None = None, **options: Any) -> None:
        """Take the options of `FakeCloud`; by default, addresses are those of 127.0.0.0/8.

        Args:
            delays: Time in each state.
            quota: Maximum number of queued resources of a zone, in any state.
            options: Of `FakeCloud`.
        """
        super().__init__(delays, **{"addresses": self._loopback} | options)
        self.calls: deque[tuple[str, Any]] = deque(maxlen=1000)
        self._errors: deque[tuple[str, ApiError]] = deque()
        self._hosts = 0
        self._quota = quota
        self._rpcs |= {
            "ListNodes": self._list_nodes,
            "DeleteNode": self._delete_node,
            "GetGuestAttributes": self._guest_attributes,
        }

    def call(self, rpc: str, request: Any) -> Any:
        """Answer an RPC, unless `refuse` was called for it."""
        with self._lock:
            self.calls.append((rpc, request))
            if self._errors and self._errors[0][0] in ("", rpc):
                raise self._errors.popleft()[1]
            return super().call(rpc, request)

    def refuse(self, status: str, message: str, times: int = 1, rpc: str = "") -> None:
        """Make the next calls of one RPC, or of any, fail."""
        with self._lock:
            self._errors.extend([(rpc, ApiError(status, message))] * times)

    def advance(self, name: str) -> None:
        """Go to the next state now, as by admission, a grant or the end of a deletion."""
        with self._lock:
            self._event(name, AUTOMATIC[self._get(name).state])

    def fail(self, name: str, code: int, message: str) -> None:
        """Let a pending request fail with a code of google.rpc.Code."""
        with self._lock:
            record = self._get(name)
            error = status_pb2.Status(code=code, message=message)
            if record.state == "CREATING":
                self._complete(record, error)
            self._event(name, "fail")
            record.resource.state.failed_data = {"error": error}

    def maintenance(self, name: str, over: bool = False) -> None:
        """Start or end maintenance of its nodes."""
        with self._lock:
            for node in self._get(name).nodes.values():
                node.health = "HEALTHY" if over else "UNHEALTHY_MAINTENANCE"

    def node_preempted(self, name: str, node_id: str = "") -> None:
        """Preempt one node, by default the first; its resource stays ACTIVE."""
        with self._lock:
            record = self._get(name)
            node_id = node_id or next(iter(record.nodes))
            record.nodes[node_id].state = tpu_v2.Node.State.PREEMPTED
            self._notify("gone", record, [node_id])

    def node_gone(self, name: str, node_id: str = "") -> None:
        """Remove one node; its resource stays ACTIVE."""
        with self._lock:
            record = self._get(name)
            node_id = node_id or next(iter(record.nodes))
            self._notify("gone", record, [node_id])
            del record.nodes[node_id]

    def state(self, name: str) -> str:
        """Return the state of a resource; "" if it does not exist."""
        with self._lock:
            try:
                return self._get(name).state
            except LookupError:
                return ""

    def _loopback(self, node_id: str, count: int) -> list[str]:
        first = ip_address("127.16.0.2") + self._hosts
        self._hosts += count
        return [str(first + index) for index in range(count)]

    # RPCs.

    def _create(self, request: tpu_v2.CreateQueuedResourceRequest) -> operations_pb2.Operation:
        used = sum(name.startswith(f"{request.parent}/") for name in self._records)
        if self._quota is not None and used >= self._quota:
            raise ApiError(
                "RESOURCE_EXHAUSTED",
                "Quota 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' exhausted. Limit"
                f" {self._quota} in zone {request.parent.rpartition('/')[2]}",
            )
        return super()._create(request)

    def _list_nodes(self, request: tpu_v2.ListNodesRequest) -> tpu_v2.ListNodesResponse:
        check_location(request.parent, self._zones)
        return tpu_v2.ListNodesResponse(
            nodes=[
                node
                for name, record in self._records.items()
                if name.startswith(f"{request.parent}/")
                for node in record.nodes.values()
            ]
        )

    def _delete_node(self, request: tpu_v2.DeleteNodeRequest) -> operations_pb2.Operation:
        record, _ = self._node(request.name)
        node_id = request.name.rpartition("/")[2]
        self._notify("gone", record, [node_id])
        del record.nodes[node_id]
        if not record.nodes and after(record.state, "suspend"):
            self._step(record, "suspend", "USER")
        operation = self._new_operation(request.name, "delete")
        operation.response.Pack(empty_pb2.Empty())
        operation.done = True
        return operation

    def _guest_attributes(
        self, request: tpu_v2.GetGuestAttributesRequest
    ) -> tpu_v2.GetGuestAttributesResponse:
        """Return no attributes; gcloud looks for host keys here and continues without them."""
        workers = [worker for worker in request.worker_ids if worker]
        count = len(workers or self._node(request.name)[1].network_endpoints)
        empty = tpu_v2.GuestAttributes(query_value=tpu_v2.GuestAttributesValue())
        return tpu_v2.GetGuestAttributesResponse(guest_attributes=[empty] * count)
