"""The self-test and the command line of gcloud ssh, against the fake cloud."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bert_jax.runtime.errors import DeviceUnavailableError, UserError
from support.commands import invoke
from support.scripted_cloud import ScriptedCloud
from tpu.launch.provider import ENDPOINT, connect
from tpu.launch.ssh import arguments
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays
from tpu.rehearsal.selftest import selftest, unknown_transitions

PROJECT, ZONE = "my-project", "us-west4-a"


def served(delays: Delays) -> Iterator[tuple[ScriptedCloud, str]]:
    cloud = ScriptedCloud(delays)
    with fake_rest.serve(cloud) as url:
        yield cloud, url
    cloud.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedCloud]:
    for cloud, url in served(Delays(0.1, 0.1, 0.1, 0.1, 0.1)):
        monkeypatch.setenv(ENDPOINT, url)
        yield cloud


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedCloud]:
    """A cloud without capacity."""
    for cloud, url in served(Delays(0.0, None, 0.0, 0.0, 0.0)):
        monkeypatch.setenv(ENDPOINT, url)
        yield cloud


def test_it_requests_one_chip_reports_its_states_and_leaves_nothing(quick: ScriptedCloud) -> None:
    result = invoke("tpu", "selftest", "--project", PROJECT)
    assert result.returncode == 0, result.stderr
    assert "v5litepod-1 spot: about 0.24 USD per hour" in result.stderr
    for state in ("ACTIVE", "DELETING", "deleted", "all transitions are as expected"):
        assert state in result.stderr
    (created,) = (request for rpc, request in quick.calls if rpc == "CreateQueuedResource")
    assert "spot" in created.queued_resource
    assert quick.state(created.queued_resource_id) == ""


def test_without_capacity_it_gives_up_and_leaves_nothing(full: ScriptedCloud) -> None:
    with pytest.raises(DeviceUnavailableError, match="no capacity in us-west4-a"):
        selftest(connect(PROJECT), PROJECT, ZONE, patience=0.3, pause=0.05)
    (created,) = (request for rpc, request in full.calls if rpc == "CreateQueuedResource")
    assert full.state(created.queued_resource_id) == ""


def test_a_slice_that_fails_is_deleted_too(full: ScriptedCloud) -> None:
    def fail(seconds: float) -> None:
        (name,) = {r.queued_resource_id for rpc, r in full.calls if rpc == "CreateQueuedResource"}
        if full.state(name) == "WAITING_FOR_RESOURCES":
            full.fail(name, 8, "no more capacity")

    with pytest.raises(UserError, match="became FAILED"):
        selftest(connect(PROJECT), PROJECT, ZONE, patience=9, pause=0.05, sleep=fail)


def test_unknown_transitions_are_reported() -> None:
    states = ["CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "DELETING", ""]
    assert unknown_transitions([(state, 0.0) for state in states]) == []
    # States between two checks are not observed.
    assert unknown_transitions([("CREATING", 0.0), ("ACTIVE", 0.0), ("", 0.0)]) == []
    assert unknown_transitions([("SUSPENDED", 0.0), ("ACTIVE", 0.0)]) == ["SUSPENDED -> ACTIVE"]
    assert unknown_transitions([("ACTIVE", 0.0), ("RESETTING", 0.0)]) == ["ACTIVE -> RESETTING"]


def test_ssh_is_gclouds() -> None:
    assert arguments("bert-a", ZONE, PROJECT, 3, False, []) == [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", "bert-a"),
        *("--zone=us-west4-a", "--project=my-project", "--worker=3"),
    ]
    line = arguments("bert-a", ZONE, PROJECT, 0, True, ["tail", "-n", "5", "/var/log/syslog"])
    assert line[-2:] == ["--tunnel-through-iap", "--command=tail -n 5 /var/log/syslog"]
