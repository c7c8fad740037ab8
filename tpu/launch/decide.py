"""What a watcher does next: a pure function of what it sees, so that watchers need no memory.

What the states of a queued resource mean: cloud.google.com/tpu/docs/queued-resources. A spot
request that was preempted is SUSPENDED and stays so, counting against the quota, until someone
deletes it; deleting it and asking again is what this is for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bert_jax.runtime.status_files import BUSY, ENDED, Attempt, Heartbeat, Markers
from tpu.launch.provider import ABSENT, Resource

FRESH = 300.0  # a heartbeat that is older does not count
BOOT = 1200.0  # from ACTIVE to heartbeats of all hosts; installing takes some minutes of it
REPAIR = 1800.0  # how long maintenance may take
ATTEMPT = "bert-jax-attempt"  # in the metadata of a slice
SETTLE = 120.0  # a resource that was just created may not be listed yet
_FIRST_STEP = 3 * BOOT  # from ACTIVE to the first step; placing the store is part of it
_SILENT_TRIES = 2
_BUSY_TRIES = 3
BACK_OFF = (30.0, 900.0)  # seconds before another attempt, after the first and at most

# https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes#State and #Health
_MENDING = {
    "REPAIRING", "RESTARTING", "STARTING", "REIMAGING",
    "UNHEALTHY_MAINTENANCE", "UNHEALTHY_TENSORFLOW", "TIMEOUT",
}  # fmt: skip
_GONE = {"PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING", "HIDDEN", "HIDING", ABSENT}
_WAITING = {"CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES"}

Status = Literal[
    "NEW", "QUEUED", "PROVISIONING", "BOOTING", "RUNNING", "STALLED", "MAINTENANCE",
    "PREEMPTED", "LEAVING", "STOPPED", "STOPPING", "FAILED", "DONE",
]  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """How long and how often; see `tpu.config.TpuConfig`."""

    max_wait: float
    max_failures: int
    max_preemptions: int


@dataclass(frozen=True)
class Observation:
    """Everything that a decision rests on.

    Attributes:
        spec: Of the launch.
        zones: In the order in which they are tried.
        limits: Of the launch.
        resource: The queued resource; None where there is none in any zone.
        markers: Of the run folder, with the attempts of this submission alone.
        now: By the clock of the storage.
        failure: What a FAILED resource failed of, in plain words.
        failure_kind: capacity (another zone may have it), passing (the same may work later) or
            final.
        back_off: Seconds before another attempt, after the first and at most.
    """

    spec: str
    zones: tuple[str, ...]
    limits: Limits
    resource: Resource | None
    markers: Markers
    now: float
    failure: str = ""
    failure_kind: Literal["capacity", "passing", "final"] = "final"
    back_off: tuple[float, float] = BACK_OFF


@dataclass(frozen=True)
class Decision:
    """What to do.

    Attributes:
        status: Of the run, for people.
        do: wait, create (in `zone`), delete (writing down `ended` as the reason), or end.
        why: In plain words.
        zone: To create in.
        ended: Why the attempt is given up.
        failed: Whether the watcher ends with a failure.
    """

    status: Status
    do: Literal["wait", "create", "delete", "end"]
    why: str
    zone: str = ""
    ended: str = ""
    failed: bool = False


def decide(seen: Observation) -> Decision:
    """What to do now."""
    finished = _finished(seen)
    if seen.resource is None:
        return finished or _without(seen)
    if seen.resource.state in ("DELETING", "SUSPENDING"):
        return Decision("LEAVING", "wait", f"the slice is {seen.resource.state.lower()}")
    return finished or _with(seen, seen.resource)


def _finished(seen: Observation) -> Decision | None:
    """For a run that is done, has failed for good, or was asked to stop."""
    there, endings = seen.resource is not None, seen.markers.endings
    statuses: tuple[Status, ...] = ("DONE", "FAILED", "STOPPED")
    for name in statuses:
        ending = endings.get(name)
        if ending is not None and ending.spec == seen.spec:
            why = ending.note or f"the run is {name.lower()} at step {ending.step:,}"
            verb: Literal["delete", "end"] = "delete" if there else "end"
            ended = name.lower() if there else ""
            return Decision(name, verb, why, ended=ended, failed=name == "FAILED")
    beats = _of_attempt(seen)
    given_up = [b for b in beats if b.state == ENDED and b.exit_code not in (0, 75)]
    if given_up:
        # One that ended with 1 may have lost its peer; who ended for good says why.
        lost = max(given_up, key=lambda beat: beat.exit_code in (64, 78))
        why = f"worker {lost.worker} ended with {lost.exit_code}: {lost.note}"
        if there:
            return Decision("FAILED", "delete", why, ended="failed", failed=True)
        return Decision("FAILED", "end", why, failed=True)
    if not seen.markers.stop:
        return None
    if not there:
        return Decision("STOPPED", "end", "the run was asked to stop; submit goes on with it")
    active = seen.resource is not None and seen.resource.state == "ACTIVE"
    if active and _alive(beats) and seen.markers.stop_age < BOOT:
        return Decision("STOPPING", "wait", "the run was asked to stop; it saves first")
    return Decision("STOPPED", "delete", "the run was asked to stop", ended="stopped")


def _without(seen: Observation) -> Decision:
    """Nothing is there: begin, begin again after a pause, or give up."""
    attempts = seen.markers.attempts
    if not attempts:
        return Decision("NEW", "create", "there is no slice yet", zone=seen.zones[0])
    last = attempts[-1]
    if not last.ended:
        if seen.now - last.created < SETTLE:
            return Decision("QUEUED", "wait", "the slice was just asked for")
        # Somebody else deleted it: no tool should fight its user.
        why = f"the slice of attempt {last.number} was deleted by hand; submit creates another"
        return Decision("STOPPED", "end", why)
    if given_up := _spent(seen, attempts):
        return Decision("FAILED", "end", given_up, failed=True)
    zone = last.zone
    if zone not in seen.zones:
        zone = seen.zones[0]
    elif last.ended == "capacity":
        zone = seen.zones[(seen.zones.index(zone) + 1) % len(seen.zones)]
    left = last.ended_at + _pause(attempts, len(seen.zones), seen.back_off) - seen.now
    if left > 0:
        why = f"attempt {last.number} ended ({last.ended}); the next one in {left:.0f} s"
        return Decision("PREEMPTED" if last.ended == "preempted" else "NEW", "wait", why)
    return Decision("NEW", "create", f"attempt {last.number} ended ({last.ended})", zone=zone)


def _with(seen: Observation, resource: Resource) -> Decision:
    """A queued resource is there."""
    state = resource.state
    if state == "FAILED":
        if seen.failure_kind == "final":
            return Decision("FAILED", "delete", seen.failure, ended="failed", failed=True)
        ended = "capacity" if seen.failure_kind == "capacity" else "broken"
        return Decision("FAILED", "delete", seen.failure, ended=ended)
    if state == "SUSPENDED":
        if resource.initiator == "USER":
            why = "the slice was suspended by a user; delete it, or submit again"
            return Decision("STOPPED", "end", why)
        return Decision("PREEMPTED", "delete", "the slice was preempted", ended="preempted")
    if state in _WAITING:
        waited = seen.now - resource.created
        if waited > seen.limits.max_wait and len(seen.zones) > 1:
            why = f"no capacity in {resource.zone} for {waited / 60:.0f} minutes"
            return Decision("QUEUED", "delete", why, ended="capacity")
        return Decision("QUEUED", "wait", f"waiting for capacity in {resource.zone}")
    if state == "PROVISIONING":
        return Decision("PROVISIONING", "wait", "the slice is being set up")
    if state != "ACTIVE":
        return Decision("PROVISIONING", "wait", f"the slice is {state}, which says nothing yet")
    return _active(seen, resource)


def _active(seen: Observation, resource: Resource) -> Decision:
    """The queued resource says ACTIVE, which its nodes and hosts have to confirm."""
    states = {node.state for node in resource.nodes} | {node.health for node in resource.nodes}
    if not resource.nodes or states & _GONE:
        found = ", ".join(sorted(states & _GONE)) or "absent"
        return Decision("PREEMPTED", "delete", f"a node is {found}", ended="preempted")
    beats = _of_attempt(seen)
    # Since it is ACTIVE, which may be hours after it was asked for.
    mine = [a for a in seen.markers.attempts if a.number == attempt_of(resource)]
    up = seen.now - next((a.active for a in mine if a.active), seen.now)
    if states & _MENDING:
        if min([beat.age for beat in beats], default=up) < REPAIR:
            return Decision("MAINTENANCE", "wait", f"{', '.join(sorted(states & _MENDING))}")
        return Decision("STALLED", "delete", "maintenance does not end", ended="maintenance")
    # Not the table's number of hosts: a v5litepod-8 may be one VM or two.
    expected = max(1, sum(len(node.endpoints) for node in resource.nodes))
    held = [beat for beat in beats if beat.state == BUSY and beat.busy >= _BUSY_TRIES]
    if held:
        why = f"worker {held[0].worker} cannot open its devices: {held[0].note}"
        return Decision("STALLED", "delete", why, ended="busy")
    fresh = [beat for beat in beats if beat.age < FRESH]
    if len(fresh) >= expected:
        step = max(beat.step for beat in fresh)
        if step < 0 and up > _FIRST_STEP:
            why = f"no step was done within {up / 60:.0f} minutes"
            return Decision("STALLED", "delete", why, ended="stalled")
        why = f"step {step:,}" if step >= 0 else "the hosts are starting"
        return Decision("RUNNING", "wait", why)
    missing = f"{len(fresh)} of {expected} hosts are heard of"
    silence = up if len(beats) < expected else max(beat.age for beat in beats)
    if silence > BOOT:
        why = f"{missing} since {silence / 60:.0f} minutes"
        return Decision("STALLED", "delete", why, ended="stalled" if beats else "silent")
    return Decision("BOOTING" if len(beats) < expected else "STALLED", "wait", missing)


def _spent(seen: Observation, attempts: Sequence[Attempt]) -> str:
    """Why no further attempt is made; empty if one is."""
    last = attempts[-1]
    if last.ended in ("failed", "done", "stopped"):
        return last.note or f"attempt {last.number} ended ({last.ended}); submit begins another"
    if [attempt.ended for attempt in attempts[-_SILENT_TRIES:]] == ["silent"] * _SILENT_TRIES:
        return (
            f"no host of the last {_SILENT_TRIES} slices was ever heard of: may tpu.service_account"
            " read and write the run folder, and do the machines reach PyPI? python -m tpu logs RUN"
            " has what their startup said, if they could write"
        )
    failures = 0
    for attempt in reversed(attempts):
        if attempt.ended_step > attempt.step:
            break
        failures += attempt.ended not in ("preempted", "capacity")
    if failures >= seen.limits.max_failures:
        return (
            f"{failures} attempts in a row failed without a new step (tpu.max_failures), the last"
            f" because: {last.note or last.ended}; python -m tpu logs RUN shows more"
        )
    lost = sum(attempt.ended == "preempted" for attempt in attempts)
    if seen.limits.max_preemptions and lost >= seen.limits.max_preemptions:
        return f"{lost} attempts were preempted (tpu.max_preemptions)"
    return ""


def _pause(attempts: Sequence[Attempt], zones: int, back_off: tuple[float, float]) -> float:
    """Seconds between the end of an attempt and the next one.

    The jitter is drawn from the number of the attempt, so that every watcher finds the same. The
    zones are gone through without a pause.
    """
    fruitless = 0
    for attempt in reversed(attempts):
        if attempt.ended_step > attempt.step:
            break
        fruitless += 1
    if attempts[-1].ended == "capacity":
        if fruitless % zones:
            return 0.0
        fruitless //= zones
    first, most = back_off
    jitter = random.Random(attempts[-1].number).uniform(0.8, 1.2)  # noqa: S311
    return float(min(first * 2.0 ** max(0, fruitless - 1), most)) * jitter


def attempt_of(resource: Resource) -> int:
    """Number of the attempt that made a slice; 0 if it does not tell."""
    number = resource.metadata.get(ATTEMPT, "")
    return int(number) if number.isdecimal() else 0


def _of_attempt(seen: Observation) -> list[Heartbeat]:
    """The heartbeats of the slice that is there, not of one before it."""
    known = [a.number for a in seen.markers.attempts[-1:]]
    numbers = known if seen.resource is None else [attempt_of(seen.resource)]
    return [beat for beat in seen.markers.beats if beat.attempt in numbers]


def _alive(beats: Sequence[Heartbeat]) -> bool:
    return any(beat.age < FRESH and beat.state != ENDED for beat in beats)
