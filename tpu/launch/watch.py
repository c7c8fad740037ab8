"""``python -m tpu watch RUN``: keeps a slice there until the run is done.

It remembers nothing: what it needs is in the cloud and in the run folder, so it may be killed and
started again, anywhere, at any time. Two at once make one slice, because its name is a lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, UnreachableError, UserError, printable
from bert_jax.runtime.paths import at
from bert_jax.runtime.status_files import Attempt, Markers
from pipelines.settings import command_parser, parse
from tpu.launch.decide import BACK_OFF, Decision, Observation, attempt_of, decide
from tpu.launch.explain import CloudError, explain
from tpu.launch.provider import Provider, Resource, connect
from tpu.launch.request import SPEC, Launch, queued_resource, read_launch

EMULATED = "emulated"  # the project of rehearsals
PAUSE = 30.0  # seconds between looks


class FailedError(UserError):
    """The run cannot go on."""


@dataclass(frozen=True)
class Watcher:
    """Looks and acts.

    Attributes:
        launch: What was submitted.
        provider: Of slices.
        keep: Leave the slice of a run that failed, to look at it.
        back_off: Seconds before another attempt, after the first and at most.
    """

    launch: Launch
    provider: Provider
    keep: bool = False
    back_off: tuple[float, float] = BACK_OFF

    @property
    def run(self) -> Path:
        """Folder of the run."""
        return at(self.launch.run)

    def look(self) -> tuple[Observation, Decision]:
        """What there is, and what to do about it.

        Raises:
            BadInputError: The slice of this name is of another launch.
            UserError: The cloud or the run folder cannot be reached.
        """
        resource = self._resource()
        failure, kind = self._failure(resource)
        found, now = status_files.look(self.run)
        attempts = tuple(a for a in found.attempts if a.number >= self.launch.first)
        seen = Observation(
            spec=self.launch.spec,
            zones=self.launch.tpu.zones,
            limits=self.launch.limits,
            resource=resource,
            markers=replace(found, attempts=attempts),
            now=now,
            failure=failure,
            failure_kind=kind,
            back_off=self.back_off,
        )
        return seen, decide(seen)

    def act(self, seen: Observation, decision: Decision) -> bool:
        """Does what was decided; whether the watch is over.

        Raises:
            UserError: A request was refused.
        """
        resource = seen.resource
        if resource is not None and attempt_of(resource) >= self.launch.first:
            self._note(seen, resource)
        if decision.do == "create":
            self._create(seen, decision.zone)
        elif decision.do == "delete" and resource is not None:
            if decision.failed and self.keep:
                say(f"the slice {self.launch.name} is left in {resource.zone}; it costs money")
                return True
            now = self.provider.describe(resource.zone, self.launch.name)
            # Another watcher may have been faster, or this one asleep since it looked.
            if now is not None and _same(now, resource):
                self._end_attempt(seen, resource, decision)
                self.provider.delete(resource.zone, self.launch.name)
        return decision.do == "end"

    def _resource(self) -> Resource | None:
        there = slices_of(self.launch, self.provider)
        for extra in there[1:]:
            say(f"{extra.name} in {extra.zone} is one too many, made by a second watcher")
            self.provider.delete(extra.zone, extra.name)
        found = there[0] if there else None
        if found is None or found.state == "DELETING":
            return found
        if found.metadata.get(SPEC, self.launch.spec) != self.launch.spec:
            raise BadInputError(
                f"the slice {found.name} in {found.zone} was submitted with other settings or"
                f" code; first: python -m tpu stop {self.launch.run}"
            )
        return found

    def _failure(
        self, resource: Resource | None
    ) -> tuple[str, Literal["capacity", "passing", "final"]]:
        if resource is None or resource.state != "FAILED":
            return "", "final"
        code = resource.error_code or "UNKNOWN"
        found = explain(
            (code, resource.error),
            resource.zone,
            resource.accelerator,
            self.launch.tpu.runtime_version,
            self.launch.project,
        )
        if found.retry_elsewhere:
            return str(found), "capacity"
        return str(found), "passing" if found.passing else "final"

    def _note(self, seen: Observation, resource: Resource) -> None:
        """Writes down a slice that is not yet, and when it became active."""
        attempt = self._known(seen, resource)
        if resource.state == "ACTIVE" and not attempt.active:
            attempt = replace(attempt, active=seen.now)
            self._compare_hosts(resource)
        if attempt not in seen.markers.attempts:
            status_files.record(self.run, attempt)

    def _known(self, seen: Observation, resource: Resource) -> Attempt:
        """The attempt of a slice, as it is written down or will be."""
        number = attempt_of(resource) or self.launch.first
        new = self._attempt(number, resource.zone, seen)
        return next((a for a in seen.markers.attempts if a.number == number), new)

    def _attempt(self, number: int, zone: str, seen: Observation) -> Attempt:
        return Attempt(number, self.launch.spec, zone, _step(seen.markers), seen.now)

    def _compare_hosts(self, resource: Resource) -> None:
        found = sum(len(node.endpoints) for node in resource.nodes)
        if found != self.launch.hosts:
            say(f"the slice has {found} hosts, the table says {self.launch.hosts}; it is believed")

    def _create(self, seen: Observation, zone: str) -> None:
        last = seen.markers.attempts[-1].number if seen.markers.attempts else 0
        number = max(last + 1, self.launch.first)
        resource = queued_resource(self.launch, zone, number)
        try:
            created = self.provider.create(zone, self.launch.name, resource)
        except CloudError as error:
            first = not seen.markers.attempts and len(self.launch.tpu.zones) < 2
            if not error.retry_elsewhere or first:
                raise
            say(str(error))
            failed = replace(
                self._attempt(number, zone, seen),
                ended="capacity",
                ended_at=seen.now,
                ended_step=_step(seen.markers),
                note=str(error),
            )
            status_files.record(self.run, failed)
            return
        if created:
            status_files.record(self.run, self._attempt(number, zone, seen))
            say(f"attempt {number}: asked for {self.launch.tpu.accelerator} in {zone}")

    def _end_attempt(self, seen: Observation, resource: Resource, decision: Decision) -> None:
        """Before the slice is deleted, so that whoever finds it gone knows why."""
        end = replace(
            self._known(seen, resource),
            ended=decision.ended,
            ended_at=seen.now,
            ended_step=_step(seen.markers),
            note=decision.why,
        )
        status_files.record(self.run, end)


def slices_of(launch: Launch, provider: Provider) -> list[Resource]:
    """The queued resources of a launch: one, wherever it is, unless watchers met; oldest first.

    Raises:
        CloudError: No zone can be asked.
    """
    there: list[Resource] = []
    refused: list[CloudError] = []
    for zone in launch.tpu.zones:
        try:
            if (found := provider.describe(zone, launch.name)) is not None:
                there.append(found)
        except CloudError as error:
            if not error.retry_elsewhere:
                raise
            refused.append(error)  # such as a zone that the project may not use
    if len(refused) == len(launch.tpu.zones):
        raise refused[0]
    return sorted(there, key=lambda found: (found.state == "DELETING", attempt_of(found)))


def slice_of(launch: Launch, provider: Provider) -> Resource | None:
    """The one that counts; see `slices_of`."""
    return next(iter(slices_of(launch, provider)), None)


def _same(one: Resource, other: Resource) -> bool:
    states = [(found.state, found.created, attempt_of(found)) for found in (one, other)]
    nodes = [{node.state for node in found.nodes} for found in (one, other)]
    return states[0] == states[1] and nodes[0] == nodes[1]


def watcher_of(run: str, keep: bool = False) -> Watcher:
    """Of the run that was submitted to the folder `run`.

    Raises:
        BadInputError: Nothing was, or it was a rehearsal, which is over.
    """
    launch = read_launch(at(run))
    return Watcher(launch, _provider_of(launch), keep)


def _provider_of(launch: Launch) -> Provider:
    """Of the project of a launch, or of the emulated cloud of a rehearsal."""
    if launch.project != EMULATED:
        return connect(launch.project)
    found = status_files.endpoint(at(launch.run))
    if not found:
        raise BadInputError(
            f"{launch.run} was rehearsed on this computer, and its cloud is gone;"
            f" python -m tpu logs {launch.run} has what the machines said"
        )
    return connect(launch.project, found)


def watch(
    watcher: Watcher, pause: float = PAUSE, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Looks and acts until the run is over.

    Raises:
        FailedError: The run cannot go on.
        UserError: A request was refused for good.
    """
    said, when = "", 0.0
    while True:
        try:
            seen, decision = watcher.look()
            line = f"{decision.status}: {decision.why}"
            news = not said.startswith(decision.status) or decision.do != "wait"
            if line != said and (news or time.monotonic() - when > PAUSE):
                say(line)
                said, when = line, time.monotonic()
            if watcher.act(seen, decision):
                if decision.failed:
                    raise FailedError(f"{watcher.launch.run}: {decision.why}")
                return
        except (CloudError, UnreachableError) as error:
            if isinstance(error, CloudError) and not error.passing:
                raise
            say(f"{error} (looking again)")
        sleep(pause)


def _step(found: Markers) -> int:
    """Newest step that any host has told of; -1 before the first."""
    steps = [beat.step for beat in found.beats]
    steps += [max(attempt.step, attempt.ended_step) for attempt in found.attempts]
    return max(steps, default=-1)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "tpu watch",
        "Keeps a slice there until the run is done: a slice that was preempted is deleted and asked"
        " for again. May be stopped and started again at any time, on any machine.",
    )
    parser.add_argument("run", help="folder of the run, such as gs://bucket/runs/base")
    parser.add_argument(
        "--keep-on-failure", action="store_true", help="leave the slice if the run fails"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what it would do now")
    options = parse(parser, argv)
    watcher = watcher_of(options.run, options.keep_on_failure)
    if options.dry_run:
        _, decision = watcher.look()
        print(printable(f"{decision.status}: {decision.why}; next: {decision.do}"))  # noqa: T201
        return
    watch(watcher)
