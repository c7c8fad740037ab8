"""Slices of Cloud TPU as queued resources: made, looked at and deleted.

A second provider, Compute Engine instance groups (``gce-mig``: the way to v5p and newer chips when
the Cloud TPU API, in maintenance mode since 2026, ends), is not written: it would answer the same
five verbs from a managed instance group with a workload policy.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from google.api_core.exceptions import GoogleAPICallError, RetryError, Unknown
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import tpu_v2
from google.cloud.tpu_v2.services.tpu.transports import TpuRestTransport
from google.longrunning import operations_pb2
from google.protobuf.json_format import ParseError

from bert_jax.runtime.errors import BadInputError
from tpu.launch.explain import CloudError, explain, status

A = TypeVar("A")

# The variable that gcloud reads as well: one setting points both at another server.
ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU"

ABSENT = "ABSENT"  # the state of a node that its queued resource names but that there is not

_ATTEMPT = 30.0  # seconds for one request; the library's own default is to wait for ever
_PATIENCE = 90.0  # seconds that a request is tried again
_BACK_OFF = 1.0  # seconds, at most, before the second attempt; then twice as long, up to
_LONGEST = 20.0
# Seconds in which a new request is admitted or refused; gcloud has been seen to wait for about 15.
_ADMISSION = 30.0
_POLL = 0.5  # seconds between looks at whether it was

# What the client library lets through when a proxy, say, answers in the place of the API.
_NO_ANSWER = (ParseError, ValueError, TypeError, AttributeError, LookupError, RecursionError)

_MOST_SLICES = 1000

# States in which nodes are there, or ought to be.
_WITH_NODES = {"PROVISIONING", "ACTIVE", "SUSPENDING"}


@dataclass(frozen=True)
class Node:
    """The TPU VMs of one slice.

    Attributes:
        name: Short id.
        state: Such as READY, PREEMPTED; ABSENT.
        health: Such as HEALTHY, UNHEALTHY_MAINTENANCE.
        endpoints: Internal addresses of the workers, worker 0 first.
    """

    name: str
    state: str
    health: str
    endpoints: tuple[str, ...]


@dataclass(frozen=True)
class Resource:
    """A queued resource.

    Attributes:
        name: Short id.
        zone: Where it is.
        state: Such as WAITING_FOR_RESOURCES, ACTIVE, SUSPENDED.
        initiator: Who brought the state about: USER, SERVICE, or "" where that is not said.
        error_code: Name of the status of a FAILED one, such as RESOURCE_EXHAUSTED, or "".
        error: What was said of it.
        created: In seconds since 1970.
        metadata: Of its nodes.
        labels: Of its nodes.
        accelerator: Type of each slice.
        nodes: One for each slice; empty until there are any, and in what `list` gives.
    """

    name: str
    zone: str
    state: str
    initiator: str
    error_code: str
    error: str
    created: float
    metadata: dict[str, str]
    labels: dict[str, str]
    accelerator: str
    nodes: tuple[Node, ...]


About = tuple[str, tpu_v2.QueuedResource | None]  # zone and what is asked for, for error texts
Resources = list[Resource]  # inside the classes below, `list` is the verb


class Provider(Protocol):
    """What a watcher needs of a cloud. Every verb raises a UserError that says what to do."""

    def create(self, zone: str, name: str, resource: tpu_v2.QueuedResource) -> bool:
        """Asks for slices; False where there is one of that name, in whatever state."""

    def describe(self, zone: str, name: str) -> Resource | None:
        """The resource with its nodes as they are now; None where there is none."""

    def list(self, zone: str) -> Resources:
        """All resources of the project in a zone, without their nodes."""

    def delete(self, zone: str, name: str) -> None:
        """Begins to delete a resource and its nodes; nothing happens where there is none."""

    def endpoints(self, zone: str, name: str) -> tuple[str, ...]:
        """Addresses of all workers, slice by slice."""


class QueuedResources(Provider):
    """Slices of one project through the Cloud TPU API.

    Attributes:
        project: Its id.
    """

    def __init__(self, project: str, client: tpu_v2.TpuClient) -> None:
        """Those that a client reaches; see `connect`."""
        self.project = project
        self._client = client

    def create(self, zone: str, name: str, resource: tpu_v2.QueuedResource) -> bool:
        """Asks for slices and waits until the request is admitted, not until it is met.

        A caller that is killed in between loses nothing: its next call finds the name taken.

        Raises:
            CloudError: The request was refused.
        """
        request = tpu_v2.CreateQueuedResourceRequest(
            parent=self._zone(zone), queued_resource_id=name, queued_resource=resource
        )
        about = (zone, resource)
        try:
            operation = self._call(self._client.create_queued_resource, request, about)
            self._check_admission(operation.operation, about)
        except CloudError as error:
            if error.status != "ALREADY_EXISTS" or self._resource(zone, name) is None:
                raise  # where it is not there, a node of another one has the name of ours
            return False
        return True

    def describe(self, zone: str, name: str) -> Resource | None:
        """The resource with its nodes.

        The resource alone does not tell: it stays ACTIVE while its node says PREEMPTED.

        Raises:
            CloudError: The API could not be asked.
        """
        found = self._resource(zone, name)
        if found is None:
            return None
        nodes: tuple[Node, ...] = ()
        if found.state.state.name in _WITH_NODES:
            nodes = tuple(self._node(path) for path in _node_paths(found))
            if all(node.state == ABSENT for node in nodes) and found.state.state.name != "ACTIVE":
                nodes = ()
        return _resource(found, nodes)

    def list(self, zone: str) -> Resources:
        """All resources in a zone, whoever made them, without their nodes.

        Raises:
            CloudError: The API could not be asked.
        """
        found: Resources = []
        token = ""
        while True:
            request = tpu_v2.ListQueuedResourcesRequest(parent=self._zone(zone), page_token=token)
            pager = self._call(self._client.list_queued_resources, request, (zone, None))
            page = next(iter(pager.pages))
            found += [_resource(one, ()) for one in page.queued_resources]
            token = page.next_page_token
            if not token:
                return found

    def delete(self, zone: str, name: str) -> None:
        """Begins to delete a resource and its nodes.

        Raises:
            CloudError: It was refused.
        """
        # Without `force`, which is no argument of the client's method, one with nodes stays.
        request = tpu_v2.DeleteQueuedResourceRequest(name=self._name(zone, name), force=True)
        try:
            self._call(self._client.delete_queued_resource, request, (zone, None))
        except CloudError as error:
            if error.status == "NOT_FOUND":
                return
            # The status of a second deletion is not documented: look instead.
            found = self._resource(zone, name)
            if found is not None and found.state.state.name != "DELETING":
                raise

    def endpoints(self, zone: str, name: str) -> tuple[str, ...]:
        """Addresses of all workers, slice by slice.

        Raises:
            CloudError: The API could not be asked.
        """
        found = self.describe(zone, name)
        return tuple(ip for node in found.nodes for ip in node.endpoints) if found else ()

    def _zone(self, zone: str) -> str:
        return f"projects/{self.project}/locations/{zone}"

    def _name(self, zone: str, name: str) -> str:
        return f"{self._zone(zone)}/queuedResources/{name}"

    def _resource(self, zone: str, name: str) -> tpu_v2.QueuedResource | None:
        request = tpu_v2.GetQueuedResourceRequest(name=self._name(zone, name))
        try:
            return self._call(self._client.get_queued_resource, request, (zone, None))
        except CloudError as error:
            if error.status == "NOT_FOUND":
                return None
            raise

    def _node(self, path: str) -> Node:
        short = path.rpartition("/")[2]
        try:
            request = tpu_v2.GetNodeRequest(name=path)
            node = self._call(self._client.get_node, request, (path.split("/")[3], None))
        except CloudError as error:
            if error.status == "NOT_FOUND":
                return Node(short, ABSENT, "", ())
            raise
        ips = tuple(endpoint.ip_address for endpoint in node.network_endpoints)
        return Node(short, node.state.name, _unless_unspecified(node.health.name), ips)

    def _call(self, method: Callable[..., A], request: Any, about: About) -> A:
        """The answer to a request, which is repeated while the failure is a passing one."""

        def once() -> A:
            return method(request, retry=None, timeout=_ATTEMPT)

        # Around the call, not handed to it: there, all attempts would share one timeout.
        repeated = Retry(_passing, _BACK_OFF, _LONGEST, 2.0, _PATIENCE)(once)
        try:
            return repeated()
        except RetryError as error:
            cause: Exception = error.cause or error
        except (GoogleAPICallError, GoogleAuthError, OSError) as error:
            cause = error
        except _NO_ANSWER as error:
            cause = Unknown(f"its answer cannot be read: {error}")
        raise self._explain(cause, about) from cause

    def _check_admission(self, operation: operations_pb2.Operation, about: About) -> None:
        """Raises what a new request is refused with, if it is refused soon.

        A later refusal, and all that comes after, is in the state that `describe` tells.
        """
        # Not `Operation.result()`: it fails where the answer is of a type that it does not expect.
        over = time.monotonic() + _ADMISSION
        while not operation.done and time.monotonic() < over:
            time.sleep(_POLL)
            request = operations_pb2.GetOperationRequest(name=operation.name)
            operation = self._call(self._client.get_operation, request, about)
        if operation.HasField("error"):
            raise self._explain((operation.error.code, operation.error.message), about)

    def _explain(self, error: Exception | tuple[int, str], about: About) -> CloudError:
        zone, resource = about
        accelerator, runtime = _asked_for(resource) if resource is not None else ("", "")
        return explain(error, zone, accelerator, runtime, self.project)


def connect(project: str, endpoint: str = "") -> QueuedResources:
    """The project's slices, with the application default credentials.

    Args:
        project: Its id.
        endpoint: URL of the API; unless given, that of the environment, and then Google's.

    Raises:
        BadInputError: The endpoint in the environment is none.
        CloudError: There are no credentials.
    """
    try:
        return QueuedResources(project, _client(endpoint or os.environ.get(ENDPOINT, "")))
    except GoogleAuthError as error:
        raise explain(error, project=project) from error


def _client(endpoint: str) -> tpu_v2.TpuClient:
    if not endpoint:
        return tpu_v2.TpuClient()
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.netloc or url.path.strip("/"):
        raise BadInputError(f"{ENDPOINT} must be a URL such as https://HOST/, not {endpoint!r}")
    if url.scheme == "https":
        return tpu_v2.TpuClient(transport=TpuRestTransport(host=url.netloc))
    if not _is_loopback(url.hostname or ""):
        raise BadInputError(f"{ENDPOINT}: http goes to this machine only, not to {url.hostname}")
    # Real credentials never leave without TLS; an emulator needs none.
    transport = TpuRestTransport(
        host=url.netloc, url_scheme="http", credentials=AnonymousCredentials()
    )
    return tpu_v2.TpuClient(transport=transport)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _passing(error: Exception) -> bool:
    """Whether the same request may succeed later without anybody doing anything."""
    if isinstance(error, GoogleAPICallError | GoogleAuthError | OSError):
        return explain(error).passing
    return False


def _asked_for(resource: tpu_v2.QueuedResource) -> tuple[str, str]:
    for spec in resource.tpu.node_spec:
        return spec.node.accelerator_type, spec.node.runtime_version
    return "", ""


def _node_paths(resource: tpu_v2.QueuedResource) -> list[str]:
    """Full names of the nodes that a resource has or will have."""
    place, _, short = _believed(resource).partition("/queuedResources/")
    names = []
    for spec in resource.tpu.node_spec:
        slices = spec.multislice_params
        if slices.node_count > _MOST_SLICES:
            raise explain(("UNKNOWN", f"its answer tells of {slices.node_count:,} slices"))
        prefix = slices.node_id_prefix or short
        several = [f"{prefix}-{index}" for index in range(slices.node_count)]
        names += [f"{place}/nodes/{name}" for name in several or [spec.node_id]]
    return names


def _believed(resource: tpu_v2.QueuedResource) -> str:
    """The full name of a resource.

    Raises:
        CloudError: It has none.
    """
    if not re.fullmatch(r"projects/[^/]+/locations/[^/]+/queuedResources/[^/]+", resource.name):
        raise explain(("UNKNOWN", f"its answer tells of a resource {resource.name!r:.80}"))
    return resource.name


def _resource(resource: tpu_v2.QueuedResource, nodes: tuple[Node, ...]) -> Resource:
    parts = _believed(resource).split("/")
    state = resource.state
    error = state.failed_data.error
    specs = resource.tpu.node_spec
    node = specs[0].node if specs else tpu_v2.Node()
    return Resource(
        name=parts[-1],
        zone=parts[3],
        state=state.state.name,
        initiator=_unless_unspecified(state.state_initiator.name),
        error_code=status(error.code) if error.code else "",
        error=error.message,
        created=resource.create_time.timestamp() if resource.create_time else 0.0,
        metadata=dict(node.metadata),
        labels=dict(node.labels),
        accelerator=node.accelerator_type,
        nodes=nodes,
    )


def _unless_unspecified(name: str) -> str:
    return "" if name.endswith("_UNSPECIFIED") else name
