"""``python -m tpu watch RUN``: keeps a slice there until the run is done.

It remembers nothing: what it needs is in the cloud and in the run folder, so it may be killed and
started again, anywhere, at any time. Two at once make one slice, because its name is a lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bert_jax.console import say
from bert_jax.errors import BadInputError, UserError
from bert_jax.paths import at
from pipelines.settings import command_parser, parse
from tpu import markers
from tpu.decide import BACK_OFF, Decision, Seen, attempt_of, decide
from tpu.explain import CloudError, explain
from tpu.markers import Attempt, Markers
from tpu.provider import Provider, Resource, connect
from tpu.request import SPEC, Launch, queued_resource, read_launch

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

    def look(self) -> tuple[Seen, Decision]:
        """What there is, and what to do about it.

        Raises:
            BadInputError: The slice of this name is of another launch.
            UserError: The cloud or the run folder cannot be reached.
        """
        resource = self._resource()
        found, now = markers.look(self.run)
        attempts = tuple(a for a in found.attempts if a.number >= self.launch.first)
        seen = Seen(
            spec=self.launch.spec,
            zones=self.launch.tpu.zones,
            limits=self.launch.limits,
            resource=resource,
            markers=replace(found, attempts=attempts),
            now=now,
            capacity_error=self._lacks_capacity(resource),
            back_off=self.back_off,
        )
        return seen, decide(seen)

    def act(self, seen: Seen, decision: Decision) -> bool:
        """Does what was decided; whether the watch is over.

        Raises:
            UserError: A request was refused.
        """
        if seen.resource is not None:
            self._note(seen, seen.resource)
        if decision.do == "create":
            self._create(seen, decision.zone)
        elif decision.do == "delete" and seen.resource is not None:
            if decision.failed and self.keep:
                say(f"the slice {self.launch.name} is left in {seen.resource.zone}; it costs money")
                return True
            self._end_attempt(seen, seen.resource, decision.ended)
            self.provider.delete(seen.resource.zone, self.launch.name)
        return decision.do == "end"

    def _resource(self) -> Resource | None:
        found = slice_of(self.launch, self.provider)
        if found is None or found.state == "DELETING":
            return found
        if found.metadata.get(SPEC, self.launch.spec) != self.launch.spec:
            raise BadInputError(
                f"the slice {found.name} in {found.zone} was submitted with other settings or"
                f" code; first: python -m tpu stop {self.launch.run}"
            )
        return found

    def _lacks_capacity(self, resource: Resource | None) -> bool:
        if resource is None or resource.state != "FAILED":
            return False
        found = explain((resource.error_code, resource.error), resource.zone, resource.accelerator)
        return found.retry_elsewhere

    def _note(self, seen: Seen, resource: Resource) -> None:
        """Writes down a slice that is not yet, and when it became active."""
        number = attempt_of(resource) or self.launch.first
        known = {attempt.number: attempt for attempt in seen.markers.attempts}
        attempt = known.get(number) or self._attempt(number, resource.zone, seen)
        if resource.state == "ACTIVE" and not attempt.active:
            attempt = replace(attempt, active=seen.now)
            self._compare_hosts(resource)
        if known.get(number) != attempt:
            markers.record(self.run, attempt)

    def _attempt(self, number: int, zone: str, seen: Seen) -> Attempt:
        return Attempt(number, self.launch.spec, zone, _step(seen.markers), seen.now)

    def _compare_hosts(self, resource: Resource) -> None:
        found = sum(len(node.endpoints) for node in resource.nodes)
        if found != self.launch.hosts:
            say(f"the slice has {found} hosts, the table says {self.launch.hosts}; it is believed")

    def _create(self, seen: Seen, zone: str) -> None:
        last = seen.markers.attempts[-1].number if seen.markers.attempts else 0
        number = max(last + 1, self.launch.first)
        resource = queued_resource(self.launch, zone, number)
        try:
            created = self.provider.create(zone, self.launch.name, resource)
        except CloudError as error:
            if not error.retry_elsewhere or len(self.launch.tpu.zones) < 2:
                raise
            say(str(error))
            failed = replace(
                self._attempt(number, zone, seen),
                ended="capacity",
                ended_at=seen.now,
                ended_step=_step(seen.markers),
            )
            markers.record(self.run, failed)
            return
        if created:
            markers.record(self.run, self._attempt(number, zone, seen))
            say(f"attempt {number}: asked for {self.launch.tpu.accelerator} in {zone}")

    def _end_attempt(self, seen: Seen, resource: Resource, ended: str) -> None:
        """Before the slice is deleted, so that whoever finds it gone knows why."""
        number = attempt_of(resource) or self.launch.first
        known = next((a for a in seen.markers.attempts if a.number == number), None)
        attempt = known or self._attempt(number, resource.zone, seen)
        step = _step(seen.markers)
        markers.record(self.run, replace(attempt, ended=ended, ended_at=seen.now, ended_step=step))


def slice_of(launch: Launch, provider: Provider) -> Resource | None:
    """The queued resource of a launch, in whichever zone it is.

    Raises:
        CloudError: No zone can be asked.
    """
    refused: list[CloudError] = []
    for zone in launch.tpu.zones:
        try:
            if (found := provider.describe(zone, launch.name)) is not None:
                return found
        except CloudError as error:
            if not error.retry_elsewhere:
                raise
            refused.append(error)  # such as a zone that the project may not use
    if len(refused) == len(launch.tpu.zones):
        raise refused[0]
    return None


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
        except CloudError as error:
            if not error.passing:
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
    launch = read_launch(at(options.run))
    watcher = Watcher(launch, connect(launch.project), options.keep_on_failure)
    if options.dry_run:
        _, decision = watcher.look()
        print(f"{decision.status}: {decision.why}; next: {decision.do}")  # noqa: T201
        return
    watch(watcher)
