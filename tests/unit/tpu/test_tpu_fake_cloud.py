"""The fake cloud, which Google's client uses like the real one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

pytest.importorskip("google.cloud.tpu_v2", reason="extra cloud is not installed")

from google.api_core import exceptions
from google.cloud import tpu_v2

from support.scripted_cloud import STILL, ScriptedCloud
from support.slice_requests import NAME, PLACE, ZONE, hurry, reached, resource
from support.waiting import wait_until
from tpu.launch.provider import QueuedResources
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays
from tpu.rehearsal.fake_states import AUTOMATIC, DELETABLE, TRANSITIONS


@pytest.fixture
def cloud() -> Iterator[ScriptedCloud]:
    """A cloud whose states change only on request."""
    fake_cloud = ScriptedCloud(STILL)
    yield fake_cloud
    fake_cloud.close()


@pytest.fixture(params=["grpc", "rest"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def test_a_slice_from_creation_to_deletion_with_googles_client(protocol: str) -> None:
    fake_cloud = ScriptedCloud(Delays(0, 0, 0, 0, 0))
    with reached(fake_cloud, protocol) as client:
        operation = client.create_queued_resource(
            parent=PLACE, queued_resource_id="run", queued_resource=resource()
        )
        assert operation.result(timeout=10).name == NAME
        wait_until(lambda: client.get_queued_resource(name=NAME).state.state.name == "ACTIVE")
        assert [listed.name for listed in client.list_queued_resources(parent=PLACE)] == [NAME]
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
        for method in (client.get_queued_resource, client.delete_queued_resource):
            with pytest.raises(exceptions.NotFound):
                method(name=NAME)
    fake_cloud.close()


@pytest.mark.parametrize("state", sorted(DELETABLE))
def test_a_resource_without_nodes_is_deleted_without_force(state: str) -> None:
    fake_cloud = ScriptedCloud(STILL)
    with reached(fake_cloud, "grpc") as client:
        QueuedResources("p", client).create(ZONE, "run", resource())
        fake_cloud.advance("run")
        if state == "FAILED":
            fake_cloud.fail("run", 8, "There is no more capacity")
        elif state == "SUSPENDED":
            fake_cloud.advance("run")
            fake_cloud.advance("run")
            fake_cloud.preempt("run")
            fake_cloud.advance("run")
        assert fake_cloud.state("run") == state
        client.delete_queued_resource(name=NAME)
        assert fake_cloud.state("run") == "DELETING"
    fake_cloud.close()


def test_callbacks_receive_the_hosts_in_order() -> None:
    events: list[tuple[str, dict[str, tuple[str, ...]]]] = []
    fake_cloud = ScriptedCloud(
        Delays(0, 0, 0, 0, 0),
        addresses=lambda node, count: [f"127.0.9.{index}" for index in range(count)],
        on_active=lambda resource, workers: events.append(("active", workers)),
        on_gone=lambda resource, workers: events.append(("gone", workers)),
    )
    with reached(fake_cloud, "rest") as client:
        slices = QueuedResources("p", client)
        slices.create(ZONE, "run", resource(accelerator_type="v5litepod-8"))
        wait_until(lambda: len(events) == 1)
        fake_cloud.preempt("run")
        wait_until(lambda: fake_cloud.state("run") == "SUSPENDED")
        slices.delete(ZONE, "run")  # its hosts are already removed
        wait_until(lambda: fake_cloud.state("run") == "")
    fake_cloud.close()
    assert events == [("active", {"run": ("127.0.9.0",)}), ("gone", {"run": ("127.0.9.0",)})]


def test_a_callback_that_fails_is_not_lost() -> None:
    def fail(resource: tpu_v2.QueuedResource, workers: dict[str, tuple[str, ...]]) -> None:
        raise RuntimeError("no room for workers")

    fake_cloud = ScriptedCloud(Delays(0, 0, 0, 0, 0), on_active=fail)
    request = {"parent": PLACE, "queued_resource_id": "run", "queued_resource": resource()}
    fake_cloud.call("CreateQueuedResource", tpu_v2.CreateQueuedResourceRequest(request))
    wait_until(lambda: fake_cloud.state("run") == "ACTIVE")
    with pytest.raises(RuntimeError, match="no room"):
        fake_cloud.close()


def test_the_table_of_states_is_whole() -> None:
    steps = {(row.state, row.event) for row in TRANSITIONS}
    assert len(steps) == len(TRANSITIONS)
    assert all(row.source for row in TRANSITIONS)
    all_states = {state.name for state in tpu_v2.QueuedResourceState.State}
    named = {row.state for row in TRANSITIONS} | {row.to for row in TRANSITIONS}
    assert named - {""} == all_states - {"STATE_UNSPECIFIED", "ACCEPTED"}
    assert set(AUTOMATIC.items()) <= steps
    for state in named - {"", "DELETING"}:
        assert (state, "delete") in steps


def test_a_field_that_does_not_exist_is_refused_as_by_google(cloud: ScriptedCloud) -> None:
    with fake_rest.serve(cloud) as url:
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
