"""The provider and Google's client against the fake cloud, over both protocols."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("google.cloud.tpu_v2", reason="extra cloud is not installed")

from google.api_core import exceptions
from google.cloud import tpu_v2

from support.scripted_cloud import STILL, ScriptedCloud
from support.slice_requests import (
    NAME,
    PLACE,
    ZONE,
    active,
    endpoints,
    hurry,
    reached,
    resource,
)
from tpu.launch import provider
from tpu.launch.api_errors import CloudError, cloud_error
from tpu.launch.provider import ABSENT, Node, QueuedResources
from tpu.rehearsal import fake_cloud as fake


@pytest.fixture
def cloud() -> Iterator[ScriptedCloud]:
    """A cloud whose states change only on request."""
    fake_cloud = ScriptedCloud(STILL)
    yield fake_cloud
    fake_cloud.close()


@pytest.fixture(params=["grpc", "rest"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def client(cloud: ScriptedCloud, protocol: str) -> Iterator[tpu_v2.TpuClient]:
    with reached(cloud, protocol) as connected:
        yield connected


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def slices(client: tpu_v2.TpuClient) -> QueuedResources:
    return QueuedResources("p", client)


def test_states_and_nodes_from_request_to_active(
    cloud: ScriptedCloud, slices: QueuedResources
) -> None:
    assert slices.describe(ZONE, "run") is None
    assert slices.create(ZONE, "run", resource())
    states = []
    for _ in range(4):
        described = slices.describe(ZONE, "run")
        assert described
        states.append((described.state, tuple(node.state for node in described.nodes)))
        if described.state != "ACTIVE":
            cloud.advance("run")
    assert states == [
        ("CREATING", ()),
        ("WAITING_FOR_RESOURCES", ()),
        ("PROVISIONING", ("CREATING",)),
        ("ACTIVE", ("READY",)),
    ]
    assert described.name == "run"
    assert described.zone == ZONE
    assert described.accelerator == "v5litepod-16"
    assert described.metadata == {"attempt": "1"}
    assert described.labels == {"managed-by": "bert-jax"}
    assert described.initiator == described.error == described.error_code == ""
    ips = tuple(f"127.16.0.{last}" for last in range(2, 6))
    assert described.nodes == (Node("run", "READY", "HEALTHY", ips),)
    assert endpoints(slices, "run") == ips
    (listed,) = slices.list(ZONE)
    assert (listed.name, listed.state, listed.nodes) == ("run", "ACTIVE", ())
    assert abs(listed.created - described.created) < 1e-3
    assert slices.list("europe-west4-a") == []


def test_many_are_listed_page_by_page(
    cloud: ScriptedCloud, slices: QueuedResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "_PAGE", 2)
    for name in "abcde":
        request = resource()
        request.tpu.node_spec[0].node_id = name
        assert slices.create(ZONE, name, request)
    assert [listed.name for listed in slices.list(ZONE)] == list("abcde")
    assert [name for name, _ in cloud.calls].count("ListQueuedResources") == 3


def test_slices_that_train_together_are_nodes_of_one(
    cloud: ScriptedCloud, slices: QueuedResources
) -> None:
    active(cloud, slices, 2)
    described = slices.describe(ZONE, "run")
    assert described
    assert [node.name for node in described.nodes] == ["run-0", "run-1"]
    assert len(endpoints(slices, "run")) == 8
    cloud.node_gone("run", "run-1")
    described = slices.describe(ZONE, "run")
    assert described
    assert [node.state for node in described.nodes] == ["READY", ABSENT]
    assert len(endpoints(slices, "run")) == 4


def test_a_name_that_is_taken_is_no_error(cloud: ScriptedCloud, slices: QueuedResources) -> None:
    assert slices.create(ZONE, "run", resource())
    assert not slices.create(ZONE, "run", resource())


def test_a_name_that_another_ones_node_has_is_an_error(
    cloud: ScriptedCloud, slices: QueuedResources
) -> None:
    assert slices.create(ZONE, "run", resource())
    with pytest.raises(CloudError, match="the name is already used") as error:
        slices.create(ZONE, "other", resource())
    assert (error.value.kind, error.value.exit_code) == ("name", 64)


def test_a_client_that_dies_before_its_request_is_admitted_is_taken_over_from(
    cloud: ScriptedCloud, client: tpu_v2.TpuClient, slices: QueuedResources
) -> None:
    client.create_queued_resource(
        parent=PLACE, queued_resource_id="run", queued_resource=resource()
    )  # without waiting for the operation
    assert not slices.create(ZONE, "run", resource())
    described = slices.describe(ZONE, "run")
    assert described
    assert described.state == "CREATING"


def test_a_name_is_free_only_when_the_deletion_is_over(
    cloud: ScriptedCloud, slices: QueuedResources
) -> None:
    active(cloud, slices)
    slices.delete(ZONE, "run")
    assert not slices.create(ZONE, "run", resource())
    described = slices.describe(ZONE, "run")
    assert described
    assert described.state == "DELETING"
    slices.delete(ZONE, "run")  # during its deletion
    cloud.advance("run")
    slices.delete(ZONE, "run")  # of nothing
    assert slices.create(ZONE, "run", resource())


def test_one_with_nodes_is_deleted_by_force_only(
    cloud: ScriptedCloud, client: tpu_v2.TpuClient, slices: QueuedResources, protocol: str
) -> None:
    active(cloud, slices)
    with pytest.raises(exceptions.GoogleAPICallError) as refused:
        client.delete_queued_resource(name=NAME)
    # REST raises BadRequest; only the body of its answer has the status.
    kind = {"grpc": exceptions.FailedPrecondition, "rest": exceptions.BadRequest}[protocol]
    assert type(refused.value) is kind
    assert cloud_error(refused.value).status == "FAILED_PRECONDITION"
    assert cloud.state("run") == "ACTIVE"
    slices.delete(ZONE, "run")
    assert cloud.state("run") == "DELETING"


def test_the_resource_stays_active_when_its_node_is_lost(
    cloud: ScriptedCloud, slices: QueuedResources
) -> None:
    active(cloud, slices)
    for happen, state, health in [
        (lambda: cloud.maintenance("run"), "READY", "UNHEALTHY_MAINTENANCE"),
        (lambda: cloud.maintenance("run", over=True), "READY", "HEALTHY"),
        (lambda: cloud.node_preempted("run"), "PREEMPTED", "HEALTHY"),
        (lambda: cloud.node_gone("run"), ABSENT, ""),
    ]:
        happen()
        described = slices.describe(ZONE, "run")
        assert described
        assert described.state == "ACTIVE"
        assert [(node.state, node.health) for node in described.nodes] == [(state, health)]


@pytest.mark.parametrize("by", ["USER", "SERVICE"])
def test_the_initiator_of_a_preemption_is_reported(
    cloud: ScriptedCloud, slices: QueuedResources, by: str
) -> None:
    active(cloud, slices)
    cloud.preempt("run", by)
    for state in ("SUSPENDING", "SUSPENDED"):
        described = slices.describe(ZONE, "run")
        assert described
        assert (described.state, described.initiator) == (state, by)
        if state == "SUSPENDING":
            cloud.advance("run")
    assert described.nodes == ()


def test_deleting_its_last_node_suspends_a_resource_by_the_user(
    cloud: ScriptedCloud, client: tpu_v2.TpuClient, slices: QueuedResources
) -> None:
    active(cloud, slices)
    client.delete_node(name=f"{PLACE}/nodes/run").result(timeout=10)
    described = slices.describe(ZONE, "run")
    assert described
    assert (described.state, described.initiator) == ("SUSPENDING", "USER")


def test_a_failure_has_a_code_and_a_message(cloud: ScriptedCloud, slices: QueuedResources) -> None:
    slices.create(ZONE, "run", resource())
    cloud.advance("run")
    cloud.fail("run", 8, f'There is no more capacity in the zone "{ZONE}"')
    described = slices.describe(ZONE, "run")
    assert described
    assert (described.state, described.error_code) == ("FAILED", "RESOURCE_EXHAUSTED")
    error = cloud_error((described.error_code, described.error), ZONE, described.accelerator)
    assert (error.kind, error.retry_elsewhere) == ("capacity", True)


def test_a_request_that_is_refused_after_a_while_is_explained(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cloud = ScriptedCloud(STILL)
    monkeypatch.setattr(provider, "_ADMISSION", 5.0)
    with reached(fake_cloud, protocol) as client:
        message = 'There is no more capacity in the zone "us-west4-a"'
        timer = threading.Timer(0.1, lambda: fake_cloud.fail("run", 8, message))
        timer.start()
        with pytest.raises(CloudError, match="has no capacity for v5litepod-16 now"):
            QueuedResources("p", client).create(ZONE, "run", resource())
        timer.join()
    fake_cloud.close()


def test_temporary_failures_are_retried(cloud: ScriptedCloud, slices: QueuedResources) -> None:
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


def test_lasting_failures_are_raised_once(
    cloud: ScriptedCloud, slices: QueuedResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "_RETRY_TIME", 0.3)
    cloud.refuse("UNAVAILABLE", "The service is currently unavailable.", times=1000)
    with pytest.raises(CloudError, match="run the command again") as error:
        slices.list(ZONE)
    assert (error.value.kind, error.value.exit_code) == ("transient", 69)
    assert 1 < len(cloud.calls) < 1000


def test_a_lost_answer_causes_no_second_slice(
    cloud: ScriptedCloud, slices: QueuedResources
) -> None:
    slices.create(ZONE, "run", resource())
    cloud.refuse("UNAVAILABLE", "connection reset")
    assert not slices.create(ZONE, "run", resource())


@pytest.mark.parametrize(
    ("name", "node_fields", "kind", "code"),
    [
        ("Run_1", {}, "name", 64),
        ("run", {"accelerator_type": "v5litepod-3"}, "zone", 78),
        ("run", {"runtime_version": "v2-beta"}, "runtime", 78),
        ("run", {"labels": {"Managed By": "x"}}, "unknown", 1),
        ("run", {"metadata": {"startup-script": "#" * 262_145}}, "unknown", 1),
    ],
)
def test_an_invalid_request_is_refused_at_once(
    cloud: ScriptedCloud,
    slices: QueuedResources,
    name: str,
    node_fields: dict[str, Any],
    kind: str,
    code: int,
) -> None:
    with pytest.raises(CloudError) as error:
        slices.create(ZONE, name, resource(**node_fields))
    assert (error.value.kind, error.value.exit_code) == (kind, code)
    assert "\n" not in str(error.value)
    assert len(cloud.calls) == 1  # without a retry


def test_suspended_ones_count_and_zones_differ(protocol: str) -> None:
    fake_cloud = ScriptedCloud(
        STILL, zones={ZONE: ["v5litepod-16"], "us-east1-d": ["v6e-8"]}, quota=1
    )
    with reached(fake_cloud, protocol) as client:
        slices = QueuedResources("p", client)
        active(fake_cloud, slices)
        fake_cloud.preempt("run")
        fake_cloud.advance("run")
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
    fake_cloud.close()


def test_of_many_at_once_one_makes_it(cloud: ScriptedCloud, slices: QueuedResources) -> None:
    created: list[bool] = []
    threads = [
        threading.Thread(target=lambda: created.append(slices.create(ZONE, "run", resource())))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 7 + [True]
