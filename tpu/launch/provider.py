"""Create, describe and delete Cloud TPU slices as queued resources.

The Cloud TPU API is in maintenance mode since 2026. For newer chips a second class could implement
the four public methods of `QueuedResources` with Compute Engine instance groups and a workload
policy.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar
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
from tpu.launch.api_errors import CloudError, cloud_error, status_name

A = TypeVar("A")

# gcloud reads this variable too, so one setting redirects both to another server.
ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU"

ABSENT = "ABSENT"  # state of a node that its queued resource names but that does not exist

_TIMEOUT = 30.0  # seconds for one request; the default of the library is no limit
_RETRY_TIME = 90.0  # seconds during which a request is retried
_BACK_OFF = 1.0  # maximum of seconds before the first retry; doubled for each further one, up to
_MAX_BACK_OFF = 20.0
# Seconds in which a new request is admitted or refused; gcloud was seen to wait for about 15.
_ADMISSION = 30.0
_POLL = 0.5  # seconds between checks for the admission

# Exceptions of the client library if something else answers, such as a proxy.
_NOT_THE_API = (ParseError, ValueError, TypeError, AttributeError, LookupError, RecursionError)

_MAX_SLICES = 1000

# States of a resource in which its nodes exist, or should.
_WITH_NODES = {"PROVISIONING", "ACTIVE", "SUSPENDING"}


@dataclass(frozen=True)
class Node:
    """The TPU VMs of one slice.

    Attributes:
        name: Short id.
        state: State such as READY, PREEMPTED or ABSENT.
        health: Health such as HEALTHY or UNHEALTHY_MAINTENANCE.
        endpoints: Internal addresses of the hosts, host 0 first.
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
        zone: Its zone.
        state: State such as WAITING_FOR_RESOURCES, ACTIVE or SUSPENDED.
        initiator: Initiator of the state: USER, SERVICE, or "" if unknown.
        error_code: Status of a FAILED resource, such as RESOURCE_EXHAUSTED, or "".
        error: Message of a FAILED resource.
        created: Time of creation, seconds since 1970.
        metadata: Metadata of its nodes.
        labels: Labels of its nodes.
        accelerator: Accelerator type of each slice.
        nodes: A node for each slice; empty before they exist, and in results of `list`.
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


Context = tuple[str, tpu_v2.QueuedResource | None]  # zone and requested resource, for messages
Resources = list[Resource]  # inside the classes below, `list` is a method


class QueuedResources:
    """Slices of a project through the Cloud TPU API.

    Attributes:
        project: Id of the project.
    """

    def __init__(self, project: str, client: tpu_v2.TpuClient) -> None:
        """Take the client; `connect` makes one."""
        self.project = project
        self._client = client

    def create(self, zone: str, name: str, resource: tpu_v2.QueuedResource) -> bool:
        """Request slices and wait until the request is admitted, not until it is granted.

        A caller that is killed meanwhile loses nothing: its next call finds the resource.

        Raises:
            CloudError: The request was refused.
        """
        request = tpu_v2.CreateQueuedResourceRequest(
            parent=self._zone(zone), queued_resource_id=name, queued_resource=resource
        )
        context = (zone, resource)
        try:
            operation = self._call(self._client.create_queued_resource, request, context)
            self._check_admission(operation.operation, context)
        except CloudError as error:
            if error.status != "ALREADY_EXISTS" or self._resource(zone, name) is None:
                raise  # the name is that of a node of another resource
            return False
        return True

    def describe(self, zone: str, name: str) -> Resource | None:
        """Return the resource with its nodes; None if it does not exist.

        The resource alone is not enough: it stays ACTIVE while its node is PREEMPTED.

        Raises:
            CloudError: The request failed.
        """
        resource = self._resource(zone, name)
        if resource is None:
            return None
        state = resource.state.state.name
        nodes: tuple[Node, ...] = ()
        if state in _WITH_NODES:
            nodes = tuple(self._node(path) for path in _node_paths(resource))
            if all(node.state == ABSENT for node in nodes) and state != "ACTIVE":
                nodes = ()
        return _resource(resource, nodes)

    def list(self, zone: str) -> Resources:
        """Return all resources in a zone, also those of other tools, without their nodes.

        Raises:
            CloudError: The request failed.
        """
        resources: Resources = []
        token = ""
        while True:
            request = tpu_v2.ListQueuedResourcesRequest(parent=self._zone(zone), page_token=token)
            pager = self._call(self._client.list_queued_resources, request, (zone, None))
            page = next(iter(pager.pages))
            resources += [_resource(resource, ()) for resource in page.queued_resources]
            token = page.next_page_token
            if not token:
                return resources

    def delete(self, zone: str, name: str) -> None:
        """Start the deletion of a resource and its nodes.

        Raises:
            CloudError: The request was refused.
        """
        # Without `force`, which is not an argument of the client's method, nodes prevent it.
        request = tpu_v2.DeleteQueuedResourceRequest(name=self._name(zone, name), force=True)
        try:
            self._call(self._client.delete_queued_resource, request, (zone, None))
        except CloudError as error:
            if error.status == "NOT_FOUND":
                return
            # The status of a second deletion is not documented, so compare the state.
            resource = self._resource(zone, name)
            if resource is not None and resource.state.state.name != "DELETING":
                raise

    def _zone(self, zone: str) -> str:
        return f"projects/{self.project}/locations/{zone}"

    def _name(self, zone: str, name: str) -> str:
        return f"{self._zone(zone)}/queuedResources/{name}"

    def _resource(self, zone: str, name: str) -> tpu_v2.QueuedResource | None:
        request = tpu_v2.GetQueuedResourceRequest(name=self._name(zone, name))
        return self._get(self._client.get_queued_resource, request, zone)

    def _node(self, path: str) -> Node:
        short = path.rpartition("/")[2]
        request = tpu_v2.GetNodeRequest(name=path)
        node = self._get(self._client.get_node, request, path.split("/")[3])
        if node is None:
            return Node(short, ABSENT, "", ())
        ips = tuple(endpoint.ip_address for endpoint in node.network_endpoints)
        return Node(short, node.state.name, _unless_unspecified(node.health.name), ips)

    def _get(self, method: Callable[..., A], request: Any, zone: str) -> A | None:
        """Send a request; return None if what it names does not exist."""
        try:
            return self._call(method, request, (zone, None))
        except CloudError as error:
            if error.status == "NOT_FOUND":
                return None
            raise

    def _call(self, method: Callable[..., A], request: Any, context: Context) -> A:
        """Send a request, and retry it while its failure is temporary."""

        def once() -> A:
            return method(request, retry=None, timeout=_TIMEOUT)

        # Around the call: as an argument of it, all attempts would share one timeout.
        with_retries = Retry(_is_temporary, _BACK_OFF, _MAX_BACK_OFF, 2.0, _RETRY_TIME)(once)
        try:
            return with_retries()
        except RetryError as error:
            cause: Exception = error.cause or error
        except (GoogleAPICallError, GoogleAuthError, OSError) as error:
            cause = error
        except _NOT_THE_API as error:
            cause = Unknown(f"its answer cannot be read: {error}")
        raise self._error(cause, context) from cause

    def _check_admission(self, operation: operations_pb2.Operation, context: Context) -> None:
        """Raise the error of a new request that is refused soon; `describe` shows later ones."""
        # Not `Operation.result()`, which fails on an answer of an unexpected type.
        deadline = time.monotonic() + _ADMISSION
        while not operation.done and time.monotonic() < deadline:
            time.sleep(_POLL)
            request = operations_pb2.GetOperationRequest(name=operation.name)
            operation = self._call(self._client.get_operation, request, context)
        if operation.HasField("error"):
            raise self._error((operation.error.code, operation.error.message), context)

    def _error(self, error: Exception | tuple[int, str], context: Context) -> CloudError:
        zone, resource = context
        accelerator, runtime = _requested(resource) if resource is not None else ("", "")
        return cloud_error(error, zone, accelerator, runtime, self.project)


def connect(project: str, endpoint: str = "") -> QueuedResources:
    """Connect to the slices of a project with the application default credentials.

    Args:
        project: Id of the project.
        endpoint: URL of the API. Defaults to that of the environment, then to that of Google.

    Raises:
        BadInputError: The endpoint in the environment is invalid.
        CloudError: There are no credentials.
    """
    try:
        return QueuedResources(project, _client(endpoint or os.environ.get(ENDPOINT, "")))
    except GoogleAuthError as error:
        raise cloud_error(error, project=project) from error


def _client(endpoint: str) -> tpu_v2.TpuClient:
    if not endpoint:
        return tpu_v2.TpuClient()
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.netloc or url.path.strip("/"):
        raise BadInputError(f"{ENDPOINT} must be a URL such as https://HOST/, not {endpoint!r}")
    if url.scheme == "https":
        return tpu_v2.TpuClient(transport=TpuRestTransport(host=url.netloc))
    if not _is_loopback(url.hostname or ""):
        raise BadInputError(
            f"{ENDPOINT}: http is only allowed to this machine, not to {url.hostname}; use https"
        )
    # Credentials are never sent without TLS; an emulator needs none.
    transport = TpuRestTransport(
        host=url.netloc, url_scheme="http", credentials=AnonymousCredentials()
    )
    return tpu_v2.TpuClient(transport=transport)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, GoogleAPICallError | GoogleAuthError | OSError):
        return cloud_error(error).is_temporary
    return False


def _requested(resource: tpu_v2.QueuedResource) -> tuple[str, str]:
    """Return accelerator type and runtime version."""
    for spec in resource.tpu.node_spec:
        return spec.node.accelerator_type, spec.node.runtime_version
    return "", ""


def _node_paths(resource: tpu_v2.QueuedResource) -> list[str]:
    """Return the full names of the nodes that a resource has or will have."""
    location, _, short_name = _checked_name(resource).partition("/queuedResources/")
    paths = []
    for spec in resource.tpu.node_spec:
        slices = spec.multislice_params
        if slices.node_count > _MAX_SLICES:
            raise cloud_error(("UNKNOWN", f"its answer has {slices.node_count:,} slices"))
        prefix = slices.node_id_prefix or short_name
        node_ids = [f"{prefix}-{index}" for index in range(slices.node_count)]
        paths += [f"{location}/nodes/{node_id}" for node_id in node_ids or [spec.node_id]]
    return paths


def _checked_name(resource: tpu_v2.QueuedResource) -> str:
    if not re.fullmatch(r"projects/[^/]+/locations/[^/]+/queuedResources/[^/]+", resource.name):
        raise cloud_error(("UNKNOWN", f"its answer has a resource {resource.name!r:.80}"))
    return resource.name


def _resource(resource: tpu_v2.QueuedResource, nodes: tuple[Node, ...]) -> Resource:
    parts = _checked_name(resource).split("/")
    state = resource.state
    error = state.failed_data.error
    specs = resource.tpu.node_spec
    node = specs[0].node if specs else tpu_v2.Node()
    return Resource(
        name=parts[-1],
        zone=parts[3],
        state=state.state.name,
        initiator=_unless_unspecified(state.state_initiator.name),
        error_code=status_name(error.code) if error.code else "",
        error=error.message,
        created=resource.create_time.timestamp() if resource.create_time else 0.0,
        metadata=dict(node.metadata),
        labels=dict(node.labels),
        accelerator=node.accelerator_type,
        nodes=nodes,
    )


def _unless_unspecified(name: str) -> str:
    return "" if name.endswith("_UNSPECIFIED") else name
