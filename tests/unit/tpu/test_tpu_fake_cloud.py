"""The cloud in memory by itself: to Google's own client it is as the real one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

pytest.importorskip("google.cloud.tpu_v2", reason="extra cloud is not installed")

from google.api_core import exceptions
from google.cloud import tpu_v2

from support.slice_requests import NAME, PLACE, ZONE, hurry, reached, resource
from support.waiting import wait_until
from tpu.launch.provider import QueuedResources
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import STILL, Delays, FakeCloud
from tpu.rehearsal.fake_states import AUTOMATIC, DELETABLE, TRANSITIONS


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """One in which time stands still."""
    made = FakeCloud(STILL)
    yield made
    made.close()


@pytest.fixture(params=["grpc", "rest"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def test_a_life_with_googles_client_alone(protocol: str) -> None:
    made = FakeCloud(Delays(0, 0, 0, 0, 0))
    with reached(made, protocol) as client:
        operation = client.create_queued_resource(
            parent=PLACE, queued_resource_id="run", queued_resource=resource()
        )
        assert operation.result(timeout=10).name == NAME
        wait_until(lambda: client.get_queued_resource(name=NAME).state.state.name == "ACTIVE")
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
        wait_until(lambda: len(heard) == 1)
        made.preempt("run")
        wait_until(lambda: made.state("run") == "SUSPENDED")
        slices.delete(ZONE, "run")  # whose workers have gone already
        wait_until(lambda: made.state("run") == "")
    made.close()
    assert heard == [("active", {"run": ("127.0.9.0",)}), ("gone", {"run": ("127.0.9.0",)})]


def test_a_callback_that_fails_is_not_lost() -> None:
    def fail(resource: tpu_v2.QueuedResource, workers: dict[str, tuple[str, ...]]) -> None:
        raise RuntimeError("no room for workers")

    made = FakeCloud(Delays(0, 0, 0, 0, 0), on_active=fail)
    request = {"parent": PLACE, "queued_resource_id": "run", "queued_resource": resource()}
    made.call("CreateQueuedResource", tpu_v2.CreateQueuedResourceRequest(request))
    wait_until(lambda: made.state("run") == "ACTIVE")
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
