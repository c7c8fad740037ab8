"""Google's own client against the cloud in memory, over both protocols, and our provider on it."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("google.cloud.tpu_v2", reason="extra cloud is not installed")

import grpc
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import tpu_v2
from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport, TpuRestTransport

from bert_jax.errors import BadInputError
from tpu import provider
from tpu.explain import CloudError, explain
from tpu.provider import ABSENT, ENDPOINT, Node, QueuedResources, connect
from tpu.testing import cloud as fake
from tpu.testing import grpc_server, rest
from tpu.testing.cloud import STILL, Delays, FakeCloud
from tpu.testing.serving import Quiet, serving
from tpu.testing.states import AUTOMATIC, DELETABLE, TRANSITIONS

ZONE = "us-west4-a"
PLACE = f"projects/p/locations/{ZONE}"
NAME = f"{PLACE}/queuedResources/run"


def resource(slices: int = 1, **node: Any) -> tpu_v2.QueuedResource:
    """A request for four workers in each slice."""
    wanted = {
        "accelerator_type": "v5litepod-16",
        "runtime_version": "v2-alpha-tpuv5-lite",
        "labels": {"managed-by": "bert-jax"},
        "metadata": {"attempt": "1"},
    }
    names: dict[str, Any] = {"node_id": "run"}
    if slices > 1:
        names = {"multislice_params": {"node_count": slices}}
    spec = {"parent": PLACE, "node": wanted | node, **names}
    return tpu_v2.QueuedResource({"tpu": {"node_spec": [spec]}, "spot": {}})


@contextmanager
def reached(cloud: FakeCloud, protocol: str) -> Iterator[tpu_v2.TpuClient]:
    if protocol == "rest":
        with rest.serve(cloud) as url:
            host = url.removeprefix("http://").rstrip("/")
            transport = TpuRestTransport(
                host=host, url_scheme="http", credentials=AnonymousCredentials()
            )
            with tpu_v2.TpuClient(transport=transport) as client:
                yield client
    else:
        with grpc_server.serve(cloud) as address, grpc.insecure_channel(address) as channel:
            yield tpu_v2.TpuClient(transport=TpuGrpcTransport(channel=channel))


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """One in which time stands still."""
    made = FakeCloud(STILL)
    yield made
    made.close()


@pytest.fixture(params=["grpc", "rest"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def client(cloud: FakeCloud, protocol: str) -> Iterator[tpu_v2.TpuClient]:
    with reached(cloud, protocol) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_BACK_OFF", 0.01)
    monkeypatch.setattr(provider, "_ADMISSION", 0.05)
    monkeypatch.setattr(provider, "_POLL", 0.02)


@pytest.fixture
def slices(client: tpu_v2.TpuClient) -> QueuedResources:
    return QueuedResources("p", client)


def active(cloud: FakeCloud, slices: QueuedResources, count: int = 1) -> None:
    assert slices.create(ZONE, "run", resource(count))
    for _ in range(3):
        cloud.advance("run")


def test_a_life_with_googles_client_alone(protocol: str) -> None:
    made = FakeCloud(Delays(0, 0, 0, 0, 0))
    with reached(made, protocol) as client:
        operation = client.create_queued_resource(
            parent=PLACE, queued_resource_id="run", queued_resource=resource()
        )
        assert operation.result(timeout=10).name == NAME
        eventually(lambda: client.get_queued_resource(name=NAME).state.state.name == "ACTIVE")
        assert [one.name for one in client.list_queued_resources(parent=PLACE)] == [NAME]
        (node,) = client.list_nodes(parent=PLACE)
        assert client.get_node(name=f"{PLACE}/nodes/run") == node
        assert node.state == tpu_v2.Node.State.READY
        assert len(node.network_endpoints) == 4
        with pytest.raises(exceptions.BadRequest):  # FailedPrecondition is one
            client.delete_queued_resource(name=NAME)
        with pytest.raises(TypeError, match="force"):
            client.delete_queued_resource(name=NAME, force=True)
        request = tpu_v2.DeleteQueuedResourceRequest(name=NAME, force=True)
        client.delete_queued_resource(request).result(timeout=10)
        for ask in (client.get_queued_resource, client.delete_queued_resource):
            with pytest.raises(exceptions.NotFound):
                ask(name=NAME)
    made.close()


def eventually(true: Callable[[], bool]) -> None:
    """Waits, but not for ever."""
    over = threading.Event()
    timer = threading.Timer(10, over.set)
    timer.start()
    try:
        while not true():
            assert not over.wait(0.01)
    finally:
        timer.cancel()


def test_states_and_nodes_of_a_life(cloud: FakeCloud, slices: QueuedResources) -> None:
    assert slices.describe(ZONE, "run") is None
    assert slices.create(ZONE, "run", resource())
    seen = []
    for _ in range(4):
        found = slices.describe(ZONE, "run")
        assert found
        seen.append((found.state, tuple(node.state for node in found.nodes)))
        if found.state != "ACTIVE":
            cloud.advance("run")
    assert seen == [
        ("CREATING", ()),
        ("WAITING_FOR_RESOURCES", ()),
        ("PROVISIONING", ("CREATING",)),
        ("ACTIVE", ("READY",)),
    ]
    assert found.name == "run"
    assert found.zone == ZONE
    assert found.accelerator == "v5litepod-16"
    assert found.metadata == {"attempt": "1"}
    assert found.labels == {"managed-by": "bert-jax"}
    assert found.initiator == found.error == found.error_code == ""
    ips = tuple(f"127.16.0.{last}" for last in range(2, 6))
    assert found.nodes == (Node("run", "READY", "HEALTHY", ips),)
    assert slices.endpoints(ZONE, "run") == ips
    (listed,) = slices.list(ZONE)
    assert (listed.name, listed.state, listed.nodes) == ("run", "ACTIVE", ())
    assert abs(listed.created - found.created) < 1e-3
    assert slices.list("europe-west4-a") == []


def test_many_are_listed_page_by_page(
    cloud: FakeCloud, slices: QueuedResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "_PAGE", 2)
    for name in "abcde":
        wanted = resource()
        wanted.tpu.node_spec[0].node_id = name
        assert slices.create(ZONE, name, wanted)
    assert [one.name for one in slices.list(ZONE)] == list("abcde")
    assert [name for name, _ in cloud.calls].count("ListQueuedResources") == 3


def test_slices_that_train_together_are_nodes_of_one(
    cloud: FakeCloud, slices: QueuedResources
) -> None:
    active(cloud, slices, 2)
    found = slices.describe(ZONE, "run")
    assert found
    assert [node.name for node in found.nodes] == ["run-0", "run-1"]
    assert len(slices.endpoints(ZONE, "run")) == 8
    cloud.node_gone("run", "run-1")
    found = slices.describe(ZONE, "run")
    assert found
    assert [node.state for node in found.nodes] == ["READY", ABSENT]
    assert len(slices.endpoints(ZONE, "run")) == 4


def test_a_name_that_is_taken_is_no_error(cloud: FakeCloud, slices: QueuedResources) -> None:
    assert slices.create(ZONE, "run", resource())
    assert not slices.create(ZONE, "run", resource())


def test_a_name_that_another_ones_node_has_is_an_error(
    cloud: FakeCloud, slices: QueuedResources
) -> None:
    assert slices.create(ZONE, "run", resource())
    with pytest.raises(CloudError, match="the name is taken") as error:
        slices.create(ZONE, "other", resource())
    assert (error.value.kind, error.value.exit_code) == ("name", 64)


def test_a_client_that_dies_before_its_request_is_admitted_is_taken_over_from(
    cloud: FakeCloud, client: tpu_v2.TpuClient, slices: QueuedResources
) -> None:
    client.create_queued_resource(
        parent=PLACE, queued_resource_id="run", queued_resource=resource()
    )  # and no look at the operation
    assert not slices.create(ZONE, "run", resource())
    found = slices.describe(ZONE, "run")
    assert found
    assert found.state == "CREATING"


def test_a_name_is_free_only_when_the_deletion_is_over(
    cloud: FakeCloud, slices: QueuedResources
) -> None:
    active(cloud, slices)
    slices.delete(ZONE, "run")
    assert not slices.create(ZONE, "run", resource())
    found = slices.describe(ZONE, "run")
    assert found
    assert found.state == "DELETING"
    slices.delete(ZONE, "run")  # of what is being deleted: fine
    cloud.advance("run")
    slices.delete(ZONE, "run")  # of what is not there: fine
    assert slices.create(ZONE, "run", resource())


def test_one_with_nodes_is_deleted_by_force_only(
    cloud: FakeCloud, client: tpu_v2.TpuClient, slices: QueuedResources, protocol: str
) -> None:
    active(cloud, slices)
    with pytest.raises(exceptions.GoogleAPICallError) as refused:
        client.delete_queued_resource(name=NAME)
    # REST knows only that it was a bad request; the body of its answer tells the rest.
    kind = {"grpc": exceptions.FailedPrecondition, "rest": exceptions.BadRequest}[protocol]
    assert type(refused.value) is kind
    assert explain(refused.value).status == "FAILED_PRECONDITION"
    assert cloud.state("run") == "ACTIVE"
    slices.delete(ZONE, "run")
    assert cloud.state("run") == "DELETING"


@pytest.mark.parametrize("state", sorted(DELETABLE))
def test_one_without_nodes_is_deleted_without_force(state: str) -> None:
    made = FakeCloud(STILL)
    with reached(made, "grpc") as client:
        QueuedResources("p", client).create(ZONE, "run", resource())
        made.advance("run")
        if state == "FAILED":
            made.fail("run", 8, "There is no more capacity")
        elif state == "SUSPENDED":
            made.advance("run")
            made.advance("run")
            made.preempt("run")
            made.advance("run")
        assert made.state("run") == state
        client.delete_queued_resource(name=NAME)
        assert made.state("run") == "DELETING"
    made.close()


def test_the_resource_stays_active_when_its_node_is_lost(
    cloud: FakeCloud, slices: QueuedResources
) -> None:
    active(cloud, slices)
    for happen, state, health in [
        (lambda: cloud.maintenance("run"), "READY", "UNHEALTHY_MAINTENANCE"),
        (lambda: cloud.maintenance("run", over=True), "READY", "HEALTHY"),
        (lambda: cloud.node_preempted("run"), "PREEMPTED", "HEALTHY"),
        (lambda: cloud.node_gone("run"), ABSENT, ""),
    ]:
        happen()
        found = slices.describe(ZONE, "run")
        assert found
        assert found.state == "ACTIVE"
        assert [(node.state, node.health) for node in found.nodes] == [(state, health)]


@pytest.mark.parametrize("by", ["USER", "SERVICE"])
def test_who_took_a_slice_away_is_told(cloud: FakeCloud, slices: QueuedResources, by: str) -> None:
    active(cloud, slices)
    cloud.preempt("run", by)
    for state in ("SUSPENDING", "SUSPENDED"):
        found = slices.describe(ZONE, "run")
        assert found
        assert (found.state, found.initiator) == (state, by)
        if state == "SUSPENDING":
            cloud.advance("run")
    assert found.nodes == ()


def test_deleting_its_last_node_suspends_a_resource_by_the_user(
    cloud: FakeCloud, client: tpu_v2.TpuClient, slices: QueuedResources
) -> None:
    active(cloud, slices)
    client.delete_node(name=f"{PLACE}/nodes/run").result(timeout=10)
    found = slices.describe(ZONE, "run")
    assert found
    assert (found.state, found.initiator) == ("SUSPENDING", "USER")


def test_a_failure_is_told_with_code_and_message(cloud: FakeCloud, slices: QueuedResources) -> None:
    slices.create(ZONE, "run", resource())
    cloud.advance("run")
    cloud.fail("run", 8, f'There is no more capacity in the zone "{ZONE}"')
    found = slices.describe(ZONE, "run")
    assert found
    assert (found.state, found.error_code) == ("FAILED", "RESOURCE_EXHAUSTED")
    error = explain((found.error_code, found.error), ZONE, found.accelerator)
    assert (error.kind, error.retry_elsewhere) == ("capacity", True)


def test_a_request_that_is_refused_after_a_while_is_explained(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = FakeCloud(STILL)
    monkeypatch.setattr(provider, "_ADMISSION", 5.0)
    with reached(made, protocol) as client:
        message = 'There is no more capacity in the zone "us-west4-a"'
        timer = threading.Timer(0.1, lambda: made.fail("run", 8, message))
        timer.start()
        with pytest.raises(CloudError, match="has no v5litepod-16 to give now"):
            QueuedResources("p", client).create(ZONE, "run", resource())
        timer.join()
    made.close()


def test_passing_failures_are_passed_over(cloud: FakeCloud, slices: QueuedResources) -> None:
    for status, message in [
        ("UNAVAILABLE", "The service is currently unavailable."),
        ("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Create requests' and limit"
         " 'Create requests per minute' of service 'tpu.googleapis.com'"),
        ("INTERNAL", "Internal error encountered."),
    ]:  # fmt: skip
        cloud.calls.clear()
        cloud.refuse(status, message, times=2)
        assert slices.describe(ZONE, "run") is None
        assert len(cloud.calls) == 3


def test_failures_that_last_are_told_once(
    cloud: FakeCloud, slices: QueuedResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "_PATIENCE", 0.3)
    cloud.refuse("UNAVAILABLE", "The service is currently unavailable.", times=1000)
    with pytest.raises(CloudError, match="run the command again") as error:
        slices.list(ZONE)
    assert (error.value.kind, error.value.exit_code) == ("transient", 69)
    assert 1 < len(cloud.calls) < 1000


def test_a_lost_answer_to_a_request_that_was_heard_is_no_second_request(
    cloud: FakeCloud, slices: QueuedResources
) -> None:
    slices.create(ZONE, "run", resource())
    cloud.refuse("UNAVAILABLE", "connection reset")
    assert not slices.create(ZONE, "run", resource())


@pytest.mark.parametrize(
    ("name", "wanted", "kind", "code"),
    [
        ("Run_1", {}, "name", 64),
        ("run", {"accelerator_type": "v5litepod-3"}, "zone", 78),
        ("run", {"runtime_version": "v2-beta"}, "runtime", 78),
        ("run", {"labels": {"Managed By": "x"}}, "unknown", 1),
        ("run", {"metadata": {"startup-script": "#" * 262_145}}, "unknown", 1),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    cloud: FakeCloud,
    slices: QueuedResources,
    name: str,
    wanted: dict[str, Any],
    kind: str,
    code: int,
) -> None:
    with pytest.raises(CloudError) as error:
        slices.create(ZONE, name, resource(**wanted))
    assert (error.value.kind, error.value.exit_code) == (kind, code)
    assert "\n" not in str(error.value)
    assert len(cloud.calls) == 1  # and not tried again


def test_suspended_ones_count_and_zones_differ(protocol: str) -> None:
    made = FakeCloud(STILL, zones={ZONE: ["v5litepod-16"], "us-east1-d": ["v6e-8"]}, quota=1)
    with reached(made, protocol) as client:
        slices = QueuedResources("p", client)
        active(made, slices)
        made.preempt("run")
        made.advance("run")
        second = resource()
        second.tpu.node_spec[0].node_id = "second"
        with pytest.raises(CloudError, match=f"--zone={ZONE} --project=p") as error:
            slices.create(ZONE, "second", second)
        assert (error.value.kind, error.value.retry_elsewhere) == ("quota", True)
        for zone in ("us-east1-d", "nowhere-a"):
            second.tpu.node_spec[0].parent = f"projects/p/locations/{zone}"
            with pytest.raises(CloudError) as error:
                slices.create(zone, "second", second)
            assert (error.value.kind, error.value.exit_code) == ("zone", 78)
        with pytest.raises(CloudError, match="gcloud compute tpus locations list"):
            slices.describe("nowhere-a", "run")
    made.close()


def test_of_many_at_once_one_makes_it(cloud: FakeCloud, slices: QueuedResources) -> None:
    made: list[bool] = []
    threads = [
        threading.Thread(target=lambda: made.append(slices.create(ZONE, "run", resource())))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]


def test_an_emulator_hears_of_workers_in_order() -> None:
    heard: list[tuple[str, dict[str, tuple[str, ...]]]] = []
    made = FakeCloud(
        Delays(0, 0, 0, 0, 0),
        addresses=lambda node, count: [f"127.0.9.{index}" for index in range(count)],
        on_active=lambda resource, workers: heard.append(("active", workers)),
        on_gone=lambda resource, workers: heard.append(("gone", workers)),
    )
    with reached(made, "rest") as client:
        slices = QueuedResources("p", client)
        slices.create(ZONE, "run", resource(accelerator_type="v5litepod-8"))
        eventually(lambda: len(heard) == 1)
        made.preempt("run")
        eventually(lambda: made.state("run") == "SUSPENDED")
        slices.delete(ZONE, "run")  # whose workers have gone already
        eventually(lambda: made.state("run") == "")
    made.close()
    assert heard == [("active", {"run": ("127.0.9.0",)}), ("gone", {"run": ("127.0.9.0",)})]


def test_a_callback_that_fails_is_not_lost() -> None:
    def fail(resource: tpu_v2.QueuedResource, workers: dict[str, tuple[str, ...]]) -> None:
        raise RuntimeError("no room for workers")

    made = FakeCloud(Delays(0, 0, 0, 0, 0), on_active=fail)
    request = {"parent": PLACE, "queued_resource_id": "run", "queued_resource": resource()}
    made.call("CreateQueuedResource", tpu_v2.CreateQueuedResourceRequest(request))
    eventually(lambda: made.state("run") == "ACTIVE")
    with pytest.raises(RuntimeError, match="no room"):
        made.close()


def test_the_table_of_states_is_whole() -> None:
    steps = {(row.state, row.event) for row in TRANSITIONS}
    assert len(steps) == len(TRANSITIONS)
    assert all(row.source for row in TRANSITIONS)
    known = {state.name for state in tpu_v2.QueuedResourceState.State}
    named = {row.state for row in TRANSITIONS} | {row.to for row in TRANSITIONS}
    assert named - {""} == known - {"STATE_UNSPECIFIED", "ACCEPTED"}
    assert set(AUTOMATIC.items()) <= steps
    for state in named - {"", "DELETING"}:
        assert (state, "delete") in steps


def test_a_field_that_does_not_exist_is_refused_as_by_google(cloud: FakeCloud) -> None:
    with rest.serve(cloud) as url:
        for query, body, word in [
            ("queuedResourceId=run", {"spott": {}}, "spott"),
            ("queuedResourceName=run", {"spot": {}}, "queuedResourceName"),
        ]:
            data = json.dumps(body).encode()
            address = f"{url}v2/{PLACE}/queuedResources?{query}"
            request = urllib.request.Request(address, data)  # noqa: S310
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)  # noqa: S310
            with refused.value as answer:
                error = json.load(answer)["error"]
            assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
            assert word in error["message"]
            assert error["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"


def test_connect_goes_where_gcloud_goes(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    with rest.serve(cloud) as url:
        monkeypatch.setenv(ENDPOINT, url)
        assert connect("p").create(ZONE, "run", resource())
    assert cloud.state("run") == "CREATING"


@pytest.mark.parametrize("endpoint", ["http://192.0.2.1/", "127.0.0.1:80", "http://localhost/v2"])
def test_connect_sends_nothing_in_the_clear(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, endpoint)
    with pytest.raises(BadInputError, match=ENDPOINT):
        connect("p")


def test_connect_without_credentials_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no question to a metadata server
    with pytest.raises(CloudError, match="gcloud auth application-default login") as error:
        connect("p")
    assert (error.value.kind, error.value.exit_code) == ("auth", 1)


def test_a_cloud_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{closed.getsockname()[1]}/")
        monkeypatch.setattr(provider, "_PATIENCE", 0.1)
        with pytest.raises(CloudError) as error:
            connect("p").list(ZONE)
    assert (error.value.kind, error.value.exit_code) == ("transient", 69)


@contextmanager
def answering(text: bytes, code: int = 200) -> Iterator[QueuedResources]:
    """Slices of a server that says the same to everything, as a proxy may."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.answer(text, code)

    with serving(Handler) as address:
        yield connect("p", f"http://{address}/")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>sign in</html>",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"name": 3}',
        b'{"state": {"state": [1]}}',
        b'{"name": "run"}',
        b'{"name": "\x1b[2J/a/b/c/d"}',
    ],
)
@pytest.mark.parametrize("code", [200, 400])
def test_what_is_no_answer_of_the_api_is_told_in_a_line(
    text: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "_PATIENCE", 0.1)
    with answering(text, code) as slices, pytest.raises(CloudError) as error:
        slices.describe(ZONE, "run")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_an_answer_of_a_million_slices_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_PATIENCE", 0.1)
    node = {"parent": PLACE, "node": {}, "multisliceParams": {"nodeCount": 10**6}}
    answer = {"name": NAME, "tpu": {"nodeSpec": [node]}, "state": {"state": "ACTIVE"}}
    told = pytest.raises(CloudError, match="1,000,000 slices")
    with answering(json.dumps(answer).encode()) as slices, told:
        slices.describe(ZONE, "run")
