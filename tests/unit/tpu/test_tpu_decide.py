"""Decisions of a watcher for every state of the cloud and of the run folder.

Each row has its source. PAGE is docs.cloud.google.com/tpu/docs/queued-resources, PROTO
cloud_tpu.proto of google-cloud-tpu 1.28.0; "ours" is a choice of this project.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from google.cloud import tpu_v2

from bert_jax.runtime.status_files import (
    BUSY,
    ENDED,
    STARTING,
    TRAINING,
    Attempt,
    Heartbeat,
    Outcome,
    RunStatus,
)
from tpu.config import TpuConfig
from tpu.launch.decide import (
    ATTEMPT,
    BOOT,
    FRESH,
    REPAIR,
    SETTLE,
    Decision,
    Observation,
    decide,
)
from tpu.launch.provider import ABSENT, Node, Resource

NOW = 1_000_000.0
LIMITS = TpuConfig(max_wait=3600, max_failures=3, max_preemptions=0)
READY = Node("n", "READY", "HEALTHY", ("10.0.0.1", "10.0.0.2"))
NEW_ATTEMPT = Attempt(2, "s", "a", step=100, created=NOW - 9000, active=NOW - 3000)


def resource(state: str, *nodes: Node, initiator: str = "", **values: Any) -> Resource:
    default = Resource(
        name="r",
        zone="a",
        state=state,
        initiator=initiator,
        error_code="",
        error="",
        created=NOW - 9000,
        metadata={ATTEMPT: "2"},
        labels={},
        accelerator="v4-16",
        nodes=nodes,
    )
    return replace(default, **values)


def heartbeats(
    step: int = 200, age: float = 10.0, workers: int = 2, attempt: int = 2, **values: Any
) -> tuple[Heartbeat, ...]:
    fields = {"state": TRAINING, "step": step, "age": age} | values
    return tuple(Heartbeat(worker, attempt, **fields) for worker in range(workers))


def run_status(
    *heartbeats: Heartbeat,
    attempts: tuple[Attempt, ...] = (NEW_ATTEMPT,),
    stop: bool = False,
    **outcomes: Outcome,
) -> RunStatus:
    return RunStatus(heartbeats, outcomes, attempts, stop)


def ended(reason: str, ago: float = 9999.0, number: int = 2, progressed: bool = True) -> Attempt:
    return replace(
        NEW_ATTEMPT,
        number=number,
        ended=reason,
        ended_at=NOW - ago,
        ended_step=200 if progressed else 100,
    )


def outcome(spec: str = "s") -> Outcome:
    return Outcome(spec, 2, 200)


ACTIVE = resource("ACTIVE", READY)
JUST_ACTIVE = replace(NEW_ATTEMPT, active=NOW - 60)


@dataclass(frozen=True)
class Row:
    source: str
    resource: Resource | None
    run_status: RunStatus
    status: str
    action: str
    ended: str = ""
    zone: str = ""
    failed: bool = False
    kind: str = "final"


NOTHING = (
    Row("ours", None, RunStatus(), "NEW", "create", zone="a"),
    Row("ours: not listed yet", None, run_status(attempts=(replace(NEW_ATTEMPT, created=NOW - SETTLE + 1),)), "QUEUED", "wait"),
    Row("ours: do not fight the user", None, run_status(), "STOPPED", "end"),
    Row("ours: back-off", None, run_status(attempts=(ended("preempted", ago=5),)), "PREEMPTED", "wait"),
    Row("PAGE: never re-queued", None, run_status(attempts=(ended("preempted"),)), "NEW", "create", zone="a"),
    Row("ours: next zone", None, run_status(attempts=(ended("capacity", ago=0, progressed=False),)), "NEW", "create", zone="b"),
    Row("ours: a zone that is not asked for any more", None, run_status(attempts=(replace(ended("capacity", progressed=False), zone="z"),)), "NEW", "create", zone="a"),
    Row("ours: the first again, after a pause", None, run_status(attempts=(ended("capacity", 0, 1, False), replace(ended("capacity", 0, 2, False), zone="b"))), "NEW", "wait"),
    Row("ours", None, run_status(attempts=(ended("stalled"),)), "NEW", "create", zone="a"),
    Row("ours", None, run_status(attempts=(ended("busy"),)), "NEW", "create", zone="a"),
    Row("ours: back-off", None, run_status(attempts=(ended("maintenance", ago=5),)), "NEW", "wait"),
    Row("ours: max_failures", None, run_status(attempts=tuple(ended("stalled", number=n, progressed=False) for n in (1, 2, 3))), "FAILED", "end", failed=True),
    Row("ours: a new step forgives", None, run_status(attempts=(*(ended("stalled", number=n, progressed=False) for n in (1, 2)), ended("stalled", number=3))), "NEW", "create", zone="a"),
    Row("ours: a preemption is no failure", None, run_status(attempts=(*(ended("stalled", number=n, progressed=False) for n in (1, 2)), ended("preempted", number=3, progressed=False))), "NEW", "create", zone="a"),
    Row("ours", None, run_status(attempts=(ended("failed"),)), "FAILED", "end", failed=True),
    Row("ours: once may be chance", None, run_status(attempts=(ended("silent", progressed=False),)), "NEW", "create", zone="a"),
    Row("ours: twice is the set-up", None, run_status(attempts=(ended("silent", number=1, progressed=False), ended("silent", progressed=False))), "FAILED", "end", failed=True),
    Row("ours", None, run_status(attempts=(ended("done"),), DONE=outcome()), "DONE", "end"),
    Row("ours", None, run_status(attempts=(ended("failed"),), FAILED=outcome()), "FAILED", "end", failed=True),
    Row("ours", None, run_status(attempts=(ended("stopped"),), STOPPED=outcome()), "STOPPED", "end"),
    Row("ours: another launch's ending", None, RunStatus(outcomes={"DONE": outcome("other")}), "NEW", "create", zone="a"),
    Row("ours", None, run_status(stop=True), "STOPPED", "end"),
)  # fmt: skip

# State of the resource, with any status files; then DONE, FAILED and STOP beside it.
QUEUE = (
    *(
        Row(source, resource(state, created=NOW - 60), run_status(), status, "wait")
        for state, status, source in (
            ("CREATING", "QUEUED", "PROTO: the request has been received"),
            ("ACCEPTED", "QUEUED", "PAGE: the old name of WAITING_FOR_RESOURCES"),
            ("WAITING_FOR_RESOURCES", "QUEUED", "PAGE: added to the queue"),
            ("PROVISIONING", "PROVISIONING", "PAGE: selected from the queue"),
            ("STATE_UNSPECIFIED", "PROVISIONING", "ours: waits for a state that it knows"),
        )
    ),
    Row("ours: max_wait", resource("WAITING_FOR_RESOURCES"), run_status(), "QUEUED", "delete", "capacity"),
    Row("PROTO: the resources are being deleted", resource("SUSPENDING"), run_status(), "LEAVING", "wait"),
    Row("PROTO: is being deleted", resource("DELETING"), run_status(), "LEAVING", "wait"),
    Row("ours: one thing after the other", resource("DELETING"), run_status(DONE=outcome()), "LEAVING", "wait"),
    Row("PAGE: no longer eligible", resource("SUSPENDED", initiator="SERVICE"), run_status(), "PREEMPTED", "delete", "preempted"),
    Row("ours: as SERVICE", resource("SUSPENDED"), run_status(), "PREEMPTED", "delete", "preempted"),
    Row("PROTO: state_initiator USER", resource("SUSPENDED", initiator="USER"), run_status(), "STOPPED", "end"),
    Row("PAGE: could not be fulfilled", resource("FAILED", error="no more capacity"), run_status(), "FAILED", "delete", "capacity", kind="capacity"),
    Row("ours: the same may work later", resource("FAILED", error="internal"), run_status(), "FAILED", "delete", "broken", kind="temporary"),
    Row("PROTO: failed_data", resource("FAILED", error="bad image"), run_status(), "FAILED", "delete", "failed", failed=True),
)  # fmt: skip

HOSTS = (
    Row("ours", ACTIVE, run_status(*heartbeats()), "RUNNING", "wait"),
    Row("ours", ACTIVE, run_status(*heartbeats(step=-1, state=STARTING)), "RUNNING", "wait"),
    Row("ours: installing takes a while", ACTIVE, run_status(attempts=(JUST_ACTIVE,)), "BOOTING", "wait"),
    Row("ours: queued for hours, active since now", ACTIVE, run_status(attempts=(replace(NEW_ATTEMPT, active=0.0),)), "BOOTING", "wait"),
    Row("ours", ACTIVE, run_status(*heartbeats(workers=1), attempts=(JUST_ACTIVE,)), "BOOTING", "wait"),
    Row("ours: boot deadline", ACTIVE, run_status(), "STALLED", "delete", "silent"),
    Row("ours: boot deadline", ACTIVE, run_status(*heartbeats(workers=1)), "STALLED", "delete", "stalled"),
    Row("ours: beats of the attempt before", ACTIVE, run_status(*heartbeats(attempt=1)), "STALLED", "delete", "silent"),
    Row("ours", ACTIVE, run_status(*heartbeats(age=FRESH + 1)), "STALLED", "wait"),
    Row("ours", ACTIVE, run_status(*heartbeats(age=BOOT + 1)), "STALLED", "delete", "stalled"),
    Row("ours: chips held by another process", ACTIVE, run_status(*heartbeats(state=BUSY, busy=3)), "STALLED", "delete", "busy"),
    Row("ours: once is not held", ACTIVE, run_status(*heartbeats(state=BUSY, busy=1)), "RUNNING", "wait"),
    Row("ours: a host gave up", ACTIVE, run_status(*heartbeats(state=ENDED, exit_code=78)), "FAILED", "delete", "failed", failed=True),
    Row("ours: a host gave up", ACTIVE, run_status(*heartbeats(state=ENDED, exit_code=1)), "FAILED", "delete", "failed", failed=True),
    Row("ours: done, the others follow", ACTIVE, run_status(*heartbeats(state=ENDED, exit_code=0)), "RUNNING", "wait"),
    Row("ours", ACTIVE, run_status(*heartbeats(), DONE=outcome()), "DONE", "delete", "done"),
    Row("ours", ACTIVE, run_status(*heartbeats(), FAILED=outcome()), "FAILED", "delete", "failed", failed=True),
    Row("ours", ACTIVE, run_status(*heartbeats(), STOPPED=outcome()), "STOPPED", "delete", "stopped"),
    Row("ours: it saves first", ACTIVE, run_status(*heartbeats(), stop=True), "STOPPING", "wait"),
    Row("ours: it does not", ACTIVE, replace(run_status(*heartbeats(), stop=True), stop_age=BOOT), "STOPPED", "delete", "stopped"),
    Row("ours: no first step", ACTIVE, run_status(*heartbeats(step=-1, state=STARTING), attempts=(replace(NEW_ATTEMPT, active=NOW - 3 * BOOT - 1),)), "STALLED", "delete", "stalled"),
    Row("ours: nobody is there to save", ACTIVE, run_status(stop=True), "STOPPED", "delete", "stopped"),
    Row("ours", resource("WAITING_FOR_RESOURCES"), run_status(stop=True), "STOPPED", "delete", "stopped"),
    # A v5litepod-8 of two VMs, where accelerators.yaml lists one: the number of endpoints counts.
    Row("docs.cloud.google.com/tpu/docs/v5e", replace(ACTIVE, accelerator="v5litepod-8"), run_status(*heartbeats(workers=1), attempts=(JUST_ACTIVE,)), "BOOTING", "wait"),
)  # fmt: skip

NODES = tuple(
    Row(source, resource("ACTIVE", replace(READY, state=state)), run_status(*heartbeats()), status, do, why)
    for state, status, do, why, source in (
        ("PREEMPTED", "PREEMPTED", "delete", "preempted", "PROTO: has been preempted"),
        ("TERMINATED", "PREEMPTED", "delete", "preempted", "PROTO: terminated due to preemption"),
        (ABSENT, "PREEMPTED", "delete", "preempted", "ours: deleted under the resource"),
        ("STOPPED", "PREEMPTED", "delete", "preempted", "PROTO: a stopped node"),
        ("STOPPING", "PREEMPTED", "delete", "preempted", "PROTO: being stopped"),
        ("DELETING", "PREEMPTED", "delete", "preempted", "PROTO: being deleted"),
        ("HIDDEN", "PREEMPTED", "delete", "preempted", "PROTO: hidden, for what is deleted"),
        ("HIDING", "PREEMPTED", "delete", "preempted", "PROTO: being hidden"),
        ("REPAIRING", "MAINTENANCE", "wait", "", "PROTO: being repaired"),
        ("RESTARTING", "MAINTENANCE", "wait", "", "PROTO: being restarted"),
        ("REIMAGING", "MAINTENANCE", "wait", "", "PROTO: being reimaged"),
        ("STARTING", "MAINTENANCE", "wait", "", "PROTO: being started"),
        ("CREATING", "RUNNING", "wait", "", "PROTO: being created; beats say more"),
        ("UNHIDING", "RUNNING", "wait", "", "PROTO: being unhidden"),
        ("UNKNOWN", "RUNNING", "wait", "", "PROTO: out of our knowledge"),
        ("STATE_UNSPECIFIED", "RUNNING", "wait", "", "PROTO: not set"),
        ("READY", "RUNNING", "wait", "", "PROTO: ready"),
    )
) + tuple(
    Row(source, resource("ACTIVE", replace(READY, health=health)), run_status(*heartbeats()), status, "wait")
    for health, status, source in (
        ("HEALTHY", "RUNNING", "PROTO"),
        ("", "RUNNING", "PROTO: unspecified"),
        ("TIMEOUT", "MAINTENANCE", "PROTO: the node is unresponsive"),
        ("UNHEALTHY_TENSORFLOW", "MAINTENANCE", "PROTO: the in-guest stack is unhealthy"),
        ("UNHEALTHY_MAINTENANCE", "MAINTENANCE", "PROTO: maintenance or preemption"),
    )
) + (
    Row("ours: it does not end", resource("ACTIVE", replace(READY, state="REPAIRING")), run_status(*heartbeats(age=REPAIR + 1)), "STALLED", "delete", "maintenance"),
    Row("ours: one of two slices", resource("ACTIVE", READY, replace(READY, state="PREEMPTED")), run_status(*heartbeats()), "PREEMPTED", "delete", "preempted"),
    Row("ours: no node at all", resource("ACTIVE"), run_status(*heartbeats()), "PREEMPTED", "delete", "preempted"),
)  # fmt: skip

TABLE = NOTHING + QUEUE + HOSTS + NODES


def decided(row: Row, limits: TpuConfig = LIMITS) -> Decision:
    zones = ("a", "b")
    return decide(
        Observation("s", zones, limits, row.resource, row.run_status, NOW, "it failed", row.kind)
    )


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.source}, {row.status}, {row.action}")
def test_the_table(row: Row) -> None:
    decision = decided(row)
    assert (decision.status, decision.action, decision.ended) == (
        *(row.status, row.action, row.ended),
    )
    assert (decision.zone, decision.failed) == (row.zone, row.failed)
    assert decision.reason


def test_the_table_has_every_state_there_is() -> None:
    queued = {row.resource.state for row in TABLE if row.resource is not None}
    assert queued >= set(tpu_v2.QueuedResourceState.State.__members__) - {"STATE_UNSPECIFIED"}
    nodes = [node for row in TABLE if row.resource is not None for node in row.resource.nodes]
    assert {node.state for node in nodes} >= set(tpu_v2.Node.State.__members__)
    healths = {node.health or "HEALTH_UNSPECIFIED" for node in nodes}
    assert healths >= set(tpu_v2.Node.Health.__members__)


@pytest.mark.parametrize("state", tpu_v2.QueuedResourceState.State.__members__)
@pytest.mark.parametrize("status", [
    RunStatus(), run_status(), run_status(*heartbeats()), run_status(*heartbeats(age=BOOT + 1)), run_status(stop=True),
    run_status(DONE=outcome()), run_status(FAILED=outcome()), run_status(STOPPED=outcome()),
], ids=["none", "silent", "beats", "stale", "STOP", "DONE", "FAILED", "STOPPED"])  # fmt: skip
def test_every_state_with_every_status_file_has_a_sensible_decision(
    state: str, status: RunStatus
) -> None:
    nodes = (READY,) if state == "ACTIVE" else ()
    decision = decided(Row("", resource(state, *nodes), status, "", ""))
    assert decision.action != "create", "a second slice"
    if state in ("DELETING", "SUSPENDING"):
        assert decision.action == "wait"
    elif status.outcomes:
        assert decision.action == "delete", "a slice that nobody needs costs money"
    assert bool(decision.ended) == (decision.action == "delete")


def test_a_single_zone_is_waited_for_however_long_it_takes() -> None:
    observation = Observation(
        "s", ("a",), LIMITS, resource("WAITING_FOR_RESOURCES"), run_status(), NOW
    )
    assert decide(observation).action == "wait"


def test_preemptions_can_be_limited() -> None:
    row = Row("", None, run_status(attempts=(ended("preempted"),)), "", "")
    assert decided(row, replace(LIMITS, max_preemptions=1)).failed
    assert decided(row, replace(LIMITS, max_preemptions=2)).action == "create"


def test_pauses_grow_without_progress_and_are_the_same_for_every_watcher() -> None:
    def pause(count: int) -> float:
        attempts = tuple(ended("preempted", 0.0, n + 1, progressed=False) for n in range(count))
        low, high = 0.0, 2000.0
        while high - low > 0.5:
            middle = (low + high) / 2
            last = replace(attempts[-1], ended_at=NOW - middle)
            row = Row("", None, run_status(attempts=(*attempts[:-1], last)), "", "")
            low, high = (low, middle) if decided(row).action == "create" else (middle, high)
        return low

    pauses = [pause(count) for count in (1, 2, 3, 8)]
    assert pauses == [pause(count) for count in (1, 2, 3, 8)]
    for seconds, nominal in zip(pauses, (30, 60, 120, 900), strict=True):
        assert 0.8 * nominal - 1 <= seconds <= 1.2 * nominal
