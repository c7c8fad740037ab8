"""Decide the next action of a watcher: a pure function of its observation, without state.

States of a queued resource: cloud.google.com/tpu/docs/queued-resources. A preempted spot request
stays SUSPENDED, and counts against the quota, until it is deleted. A watcher deletes it and
requests another slice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from bert_jax.runtime.status_files import BUSY, ENDED, Attempt, Heartbeat, RunStatus
from tpu.config import TpuConfig
from tpu.launch.provider import ABSENT, Resource

FRESH = 300.0  # maximum age of a heartbeat that counts
BOOT = 1200.0  # from ACTIVE to heartbeats of all hosts, which includes the installation
REPAIR = 1800.0  # maximum length of maintenance
ATTEMPT = "bert-jax-attempt"  # in the metadata of a slice
SETTLE = 120.0  # a new resource may not be listed yet
_FIRST_STEP = 3 * BOOT  # from ACTIVE to the first step, which includes fetching the store
_SILENT_TRIES = 2
_BUSY_TRIES = 3
BACK_OFF = (30.0, 900.0)  # seconds before the next attempt: the first and the longest pause

# https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes#State and #Health
_IN_REPAIR = {
    "REPAIRING", "RESTARTING", "STARTING", "REIMAGING",
    "UNHEALTHY_MAINTENANCE", "UNHEALTHY_TENSORFLOW", "TIMEOUT",
}  # fmt: skip
_GONE = {"PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING", "HIDDEN", "HIDING", ABSENT}
_QUEUED = {"CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES"}

Status = Literal[
    "NEW", "QUEUED", "PROVISIONING", "BOOTING", "RUNNING", "STALLED", "MAINTENANCE",
    "PREEMPTED", "LEAVING", "STOPPED", "STOPPING", "FAILED", "DONE",
]  # fmt: skip


@dataclass(frozen=True)
class Observation:
    """Everything that a decision depends on.

    Attributes:
        spec: Digest of the launch.
        zones: Zones in the order in which they are tried.
        limits: The section with the limits of time and attempts.
        resource: The queued resource; None if no zone has one.
        run_status: Status files of the run folder, with the attempts of this submission only.
        now: Time by the clock of the storage.
        failure: Message with the cause of a FAILED resource.
        failure_kind: capacity (another zone may have it), temporary (the same request may succeed
            later) or final.
        back_off: Seconds before the next attempt: the first and the longest pause.
    """

    spec: str
    zones: tuple[str, ...]
    limits: TpuConfig
    resource: Resource | None
    run_status: RunStatus
    now: float
    failure: str = ""
    failure_kind: Literal["capacity", "temporary", "final"] = "final"
    back_off: tuple[float, float] = BACK_OFF


@dataclass(frozen=True)
class Decision:
    """The next action of a watcher.

    Attributes:
        status: Status of the run, for users.
        action: wait, create (in `zone`), delete (and record `ended` as the reason) or end.
        reason: Reason in words.
        zone: Zone to create in.
        ended: Why the attempt ends.
        failed: True if the watcher ends with a failure.
    """

    status: Status
    action: Literal["wait", "create", "delete", "end"]
    reason: str
    zone: str = ""
    ended: str = ""
    failed: bool = False


def decide(observed: Observation) -> Decision:
    """Return the next action."""
    finished = _finished(observed)
    if observed.resource is None:
        return finished or _without_resource(observed)
    if observed.resource.state in ("DELETING", "SUSPENDING"):
        return Decision("LEAVING", "wait", f"the slice is {observed.resource.state.lower()}")
    return finished or _with_resource(observed, observed.resource)


def _finished(observed: Observation) -> Decision | None:
    """Decide for a run that is complete, failed for good or was requested to stop."""
    exists, outcomes = observed.resource is not None, observed.run_status.outcomes
    statuses: tuple[Status, ...] = ("DONE", "FAILED", "STOPPED")
    action: Literal["delete", "end"] = "delete" if exists else "end"
    for name in statuses:
        outcome = outcomes.get(name)
        if outcome is not None and outcome.spec == observed.spec:
            reason = outcome.note or f"the run is {name.lower()} at step {outcome.step:,}"
            ended = name.lower() if exists else ""
            return Decision(name, action, reason, ended=ended, failed=name == "FAILED")
    heartbeats = _of_current_attempt(observed)
    failed = [h for h in heartbeats if h.state == ENDED and h.exit_code not in (0, 75)]
    if failed:
        # A host with exit code 1 may have lost its peer; 64 and 78 are causes.
        cause = max(failed, key=lambda heartbeat: heartbeat.exit_code in (64, 78))
        reason = f"worker {cause.worker} ended with exit code {cause.exit_code}: {cause.note}"
        return Decision("FAILED", action, reason, ended="failed" if exists else "", failed=True)
    if not observed.run_status.stop:
        return None
    if not exists:
        return Decision("STOPPED", "end", "a stop was requested; submit resumes the run")
    active = observed.resource is not None and observed.resource.state == "ACTIVE"
    if active and _alive(heartbeats) and observed.run_status.stop_age < BOOT:
        return Decision("STOPPING", "wait", "a stop was requested; waiting for the hosts to save")
    return Decision("STOPPED", "delete", "a stop was requested", ended="stopped")


def _without_resource(observed: Observation) -> Decision:
    """Decide between a first attempt, another one after a pause, and the end."""
    attempts = observed.run_status.attempts
    if not attempts:
        return Decision("NEW", "create", "no slice exists yet", zone=observed.zones[0])
    last = attempts[-1]
    if not last.ended:
        if observed.now - last.created < SETTLE:
            return Decision("QUEUED", "wait", "the slice was requested just now")
        # A user deleted it, and no tool should work against its user.
        reason = f"the slice of attempt {last.number} was deleted by hand; submit creates another"
        return Decision("STOPPED", "end", reason)
    if limit := _limit_reached(observed, attempts):
        return Decision("FAILED", "end", limit, failed=True)
    zone = last.zone
    if zone not in observed.zones:
        zone = observed.zones[0]
    elif last.ended == "capacity":
        zone = observed.zones[(observed.zones.index(zone) + 1) % len(observed.zones)]
    remaining = (
        last.ended_at + _pause(attempts, len(observed.zones), observed.back_off) - observed.now
    )
    if remaining > 0:
        reason = f"attempt {last.number} ended ({last.ended}); next attempt in {remaining:.0f} s"
        return Decision("PREEMPTED" if last.ended == "preempted" else "NEW", "wait", reason)
    return Decision("NEW", "create", f"attempt {last.number} ended ({last.ended})", zone=zone)


def _with_resource(observed: Observation, resource: Resource) -> Decision:
    """Decide by the state of the queued resource."""
    state = resource.state
    if state == "FAILED":
        kind = observed.failure_kind
        ended = {"capacity": "capacity", "temporary": "broken", "final": "failed"}[kind]
        failed = kind == "final"
        return Decision("FAILED", "delete", observed.failure, ended=ended, failed=failed)
    if state == "SUSPENDED":
        if resource.initiator == "USER":
            reason = "a user suspended the slice; delete it or submit again"
            return Decision("STOPPED", "end", reason)
        return Decision("PREEMPTED", "delete", "the slice was preempted", ended="preempted")
    if state in _QUEUED:
        waited = observed.now - resource.created
        if waited > observed.limits.max_wait and len(observed.zones) > 1:
            reason = f"no capacity in {resource.zone} for {waited / 60:.0f} minutes"
            return Decision("QUEUED", "delete", reason, ended="capacity")
        return Decision("QUEUED", "wait", f"waiting for capacity in {resource.zone}")
    if state == "PROVISIONING":
        return Decision("PROVISIONING", "wait", "the slice is being created")
    if state != "ACTIVE":
        return Decision("PROVISIONING", "wait", f"the slice is in the unknown state {state}")
    return _active(observed, resource)


def _active(observed: Observation, resource: Resource) -> Decision:
    """Decide by the nodes and hosts of an ACTIVE resource."""
    states = {node.state for node in resource.nodes} | {node.health for node in resource.nodes}
    if not resource.nodes or states & _GONE:
        gone = ", ".join(sorted(states & _GONE)) or "absent"
        return Decision("PREEMPTED", "delete", f"a node is {gone}", ended="preempted")
    heartbeats = _of_current_attempt(observed)
    # Since it became ACTIVE, which may be hours after the request.
    current = [a for a in observed.run_status.attempts if a.number == attempt_of(resource)]
    up = observed.now - next((a.active for a in current if a.active), observed.now)
    if states & _IN_REPAIR:
        if min([heartbeat.age for heartbeat in heartbeats], default=up) < REPAIR:
            return Decision("MAINTENANCE", "wait", f"{', '.join(sorted(states & _IN_REPAIR))}")
        reason = f"maintenance takes longer than {REPAIR / 60:.0f} minutes"
        return Decision("STALLED", "delete", reason, ended="maintenance")
    # Not the number of the table: a v5litepod-8 may be one VM or two.
    expected = max(1, sum(len(node.endpoints) for node in resource.nodes))
    busy = [h for h in heartbeats if h.state == BUSY and h.busy >= _BUSY_TRIES]
    if busy:
        reason = f"worker {busy[0].worker} cannot open its devices: {busy[0].note}"
        return Decision("STALLED", "delete", reason, ended="busy")
    fresh = [heartbeat for heartbeat in heartbeats if heartbeat.age < FRESH]
    if len(fresh) >= expected:
        step = max(heartbeat.step for heartbeat in fresh)
        if step < 0 and up > _FIRST_STEP:
            reason = f"no step within {up / 60:.0f} minutes"
            return Decision("STALLED", "delete", reason, ended="stalled")
        reason = f"step {step:,}" if step >= 0 else "the hosts are starting"
        return Decision("RUNNING", "wait", reason)
    missing = f"{len(fresh)} of {expected} hosts report"
    silence = up if len(heartbeats) < expected else max(h.age for h in heartbeats)
    if silence > BOOT:
        reason = f"{missing} after {silence / 60:.0f} minutes"
        return Decision("STALLED", "delete", reason, ended="stalled" if heartbeats else "silent")
    return Decision("BOOTING" if len(heartbeats) < expected else "STALLED", "wait", missing)


def _limit_reached(observed: Observation, attempts: Sequence[Attempt]) -> str:
    """Return why there is no further attempt; empty if there is one."""
    last = attempts[-1]
    if last.ended in ("failed", "done", "stopped"):
        return last.note or f"attempt {last.number} ended ({last.ended}); submit starts another"
    if [attempt.ended for attempt in attempts[-_SILENT_TRIES:]] == ["silent"] * _SILENT_TRIES:
        return (
            f"no host of the last {_SILENT_TRIES} slices reported: check that tpu.service_account"
            " can read and write the run folder and that the hosts reach PyPI; if they could write"
            " logs, bert-jax tpu logs RUN prints them"
        )
    failures = sum(
        attempt.ended not in ("preempted", "capacity") for attempt in _fruitless(attempts)
    )
    if failures >= observed.limits.max_failures:
        return (
            f"{failures} attempts in a row failed without a new step (tpu.max_failures), the last"
            f" because: {last.note or last.ended}; see bert-jax tpu logs RUN"
        )
    preempted = sum(attempt.ended == "preempted" for attempt in attempts)
    if observed.limits.max_preemptions and preempted >= observed.limits.max_preemptions:
        return f"{preempted} attempts were preempted (tpu.max_preemptions); submit again to resume"
    return ""


def _pause(attempts: Sequence[Attempt], zones: int, back_off: tuple[float, float]) -> float:
    """Return the seconds between the end of an attempt and the next one.

    The number of the attempt seeds the jitter, so that every watcher computes the same. There is no
    pause between the zones of a round.
    """
    fruitless = len(_fruitless(attempts))
    if attempts[-1].ended == "capacity":
        if fruitless % zones:
            return 0.0
        fruitless //= zones
    first, longest = back_off
    jitter = random.Random(attempts[-1].number).uniform(0.8, 1.2)  # noqa: S311
    return float(min(first * 2.0 ** max(0, fruitless - 1), longest)) * jitter


def _fruitless(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the last attempts, newest first, without a new step."""
    return list(takewhile(lambda attempt: attempt.ended_step <= attempt.step, reversed(attempts)))


def attempt_of(resource: Resource) -> int:
    """Return the number of the attempt that created a slice; 0 if unknown."""
    number = resource.metadata.get(ATTEMPT, "")
    return int(number) if number.isdecimal() else 0


def _of_current_attempt(observed: Observation) -> list[Heartbeat]:
    """Return the heartbeats of the existing slice, not of earlier ones."""
    last = [attempt.number for attempt in observed.run_status.attempts[-1:]]
    numbers = last if observed.resource is None else [attempt_of(observed.resource)]
    return [
        heartbeat for heartbeat in observed.run_status.heartbeats if heartbeat.attempt in numbers
    ]


def _alive(heartbeats: Sequence[Heartbeat]) -> bool:
    return any(heartbeat.age < FRESH and heartbeat.state != ENDED for heartbeat in heartbeats)
