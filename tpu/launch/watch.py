"""``bert-jax tpu watch RUN``: replace preempted slices until the run is complete.

A watcher keeps no state: everything is in the cloud and in the run folder, so it may be killed and
started again anywhere. Two watchers create one slice, because the name of a slice is a lock.
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
from bert_jax.runtime.status_files import Attempt, RunStatus
from pipelines.settings import command_parser, parse
from tpu.launch.api_errors import CloudError, cloud_error
from tpu.launch.decide import BACK_OFF, Decision, Observation, attempt_of, decide
from tpu.launch.provider import QueuedResources, Resource, connect
from tpu.launch.request import SPEC, Launch, queued_resource, read_launch

EMULATED = "emulated"  # the project of rehearsals
PAUSE = 30.0  # seconds between observations


class FailedError(UserError):
    """The run failed for good."""


@dataclass(frozen=True)
class Watcher:
    """Observes a run and acts on it.

    Attributes:
        launch: The submitted launch.
        provider: The cloud.
        keep: Keep the slice of a run that failed.
        back_off: Seconds before the next attempt: the first and the longest pause.
    """

    launch: Launch
    provider: QueuedResources
    keep: bool = False
    back_off: tuple[float, float] = BACK_OFF

    @property
    def run(self) -> Path:
        """Folder of the run."""
        return at(self.launch.run)

    def observe(self) -> tuple[Observation, Decision]:
        """Read the states of the cloud and of the run folder, and decide what to do.

        Raises:
            BadInputError: The slice of this name belongs to another launch.
            UserError: The cloud or the run folder cannot be reached.
        """
        resource = self._resource()
        failure, kind = self._failure(resource)
        status, now = status_files.read_status(self.run)
        attempts = tuple(a for a in status.attempts if a.number >= self.launch.first)
        observation = Observation(
            spec=self.launch.spec,
            zones=self.launch.tpu.zones,
            limits=self.launch.tpu,
            resource=resource,
            run_status=replace(status, attempts=attempts),
            now=now,
            failure=failure,
            failure_kind=kind,
            back_off=self.back_off,
        )
        return observation, decide(observation)

    def act(self, observation: Observation, decision: Decision) -> bool:
        """Carry out a decision; return True if the watch is over.

        Raises:
            UserError: A request was refused.
        """
        resource = observation.resource
        if resource is not None and attempt_of(resource) >= self.launch.first:
            self._record_attempt(observation, resource)
        if decision.action == "create":
            self._create(observation, decision.zone)
        elif decision.action == "delete" and resource is not None:
            if decision.failed and self.keep:
                say(
                    f"keeping the slice {self.launch.name} in {resource.zone}; it still costs money"
                )
                return True
            current = self.provider.describe(resource.zone, self.launch.name)
            # Another watcher may have acted since, or this process was suspended.
            if current is not None and _unchanged(current, resource):
                attempt = self._attempt_of(observation, resource)
                self._record_end(observation, attempt, decision.ended, decision.reason)
                self.provider.delete(resource.zone, self.launch.name)
        return decision.action == "end"

    def _resource(self) -> Resource | None:
        resources = slices_of(self.launch, self.provider)
        for extra in resources[1:]:
            say(f"deleting {extra.name} in {extra.zone}, a duplicate by a second watcher")
            self.provider.delete(extra.zone, extra.name)
        resource = resources[0] if resources else None
        if resource is None or resource.state == "DELETING":
            return resource
        if resource.metadata.get(SPEC, self.launch.spec) != self.launch.spec:
            raise BadInputError(
                f"the slice {resource.name} in {resource.zone} was submitted with other settings"
                f" or code; run: bert-jax tpu stop {self.launch.run}, then repeat this command"
            )
        return resource

    def _failure(
        self, resource: Resource | None
    ) -> tuple[str, Literal["capacity", "temporary", "final"]]:
        if resource is None or resource.state != "FAILED":
            return "", "final"
        error = cloud_error(
            (resource.error_code or "UNKNOWN", resource.error),
            resource.zone,
            resource.accelerator,
            self.launch.tpu.runtime_version,
            self.launch.project,
        )
        if error.retry_elsewhere:
            return str(error), "capacity"
        return str(error), "temporary" if error.is_temporary else "final"

    def _record_attempt(self, observation: Observation, resource: Resource) -> None:
        """Record a slice that has no record, and the time at which it became active."""
        attempt = self._attempt_of(observation, resource)
        if resource.state == "ACTIVE" and not attempt.active:
            attempt = replace(attempt, active=observation.now)
            self._compare_hosts(resource)
        if attempt not in observation.run_status.attempts:
            status_files.write_attempt(self.run, attempt)

    def _attempt_of(self, observation: Observation, resource: Resource) -> Attempt:
        """Return the attempt of a slice, recorded or new."""
        number = attempt_of(resource) or self.launch.first
        new = self._new_attempt(number, resource.zone, observation)
        return next((a for a in observation.run_status.attempts if a.number == number), new)

    def _new_attempt(self, number: int, zone: str, observation: Observation) -> Attempt:
        step = _newest_step(observation.run_status)
        return Attempt(number, self.launch.spec, zone, step, observation.now)

    def _compare_hosts(self, resource: Resource) -> None:
        hosts = sum(len(node.endpoints) for node in resource.nodes)
        if hosts != self.launch.hosts:
            say(f"the slice has {hosts} hosts instead of {self.launch.hosts}; using {hosts}")

    def _create(self, observation: Observation, zone: str) -> None:
        attempts = observation.run_status.attempts
        number = max(attempts[-1].number + 1 if attempts else 1, self.launch.first)
        resource = queued_resource(self.launch, zone, number)
        try:
            created = self.provider.create(zone, self.launch.name, resource)
        except CloudError as error:
            only_chance = not attempts and len(self.launch.tpu.zones) < 2
            if not error.retry_elsewhere or only_chance:
                raise
            say(str(error))
            failed = self._new_attempt(number, zone, observation)
            self._record_end(observation, failed, "capacity", str(error))
            return
        if created:
            status_files.write_attempt(self.run, self._new_attempt(number, zone, observation))
            say(f"attempt {number}: requested {self.launch.tpu.accelerator} in {zone}")

    def _record_end(
        self, observation: Observation, attempt: Attempt, ended: str, note: str
    ) -> None:
        """Record why an attempt ends, before its slice is deleted."""
        step = _newest_step(observation.run_status)
        attempt = replace(
            attempt, ended=ended, ended_at=observation.now, ended_step=step, note=note
        )
        status_files.write_attempt(self.run, attempt)


def slices_of(launch: Launch, provider: QueuedResources) -> list[Resource]:
    """Return the queued resources of a launch, oldest first: one, unless two watchers collided.

    Raises:
        CloudError: No zone can be queried.
    """
    resources: list[Resource] = []
    refusals: list[CloudError] = []
    for zone in launch.tpu.zones:
        try:
            if (resource := provider.describe(zone, launch.name)) is not None:
                resources.append(resource)
        except CloudError as error:
            if not error.retry_elsewhere:
                raise
            refusals.append(error)  # such as a zone that the project may not use
    if len(refusals) == len(launch.tpu.zones):
        raise refusals[0]
    return sorted(
        resources, key=lambda resource: (resource.state == "DELETING", attempt_of(resource))
    )


def slice_of(launch: Launch, provider: QueuedResources) -> Resource | None:
    """Return the first of `slices_of`; None if there is none."""
    return next(iter(slices_of(launch, provider)), None)


def _unchanged(now: Resource, before: Resource) -> bool:
    states = [(r.state, r.created, attempt_of(r)) for r in (now, before)]
    nodes = [{node.state for node in r.nodes} for r in (now, before)]
    return states[0] == states[1] and nodes[0] == nodes[1]


def watcher_of(run: str, keep: bool = False) -> Watcher:
    """Return the watcher of a submitted run.

    Raises:
        BadInputError: The run was not submitted, or was a rehearsal that has ended.
    """
    launch = read_launch(at(run))
    return Watcher(launch, _provider_of(launch), keep)


def _provider_of(launch: Launch) -> QueuedResources:
    if launch.project != EMULATED:
        return connect(launch.project)
    url = status_files.read_endpoint(at(launch.run))
    if not url:
        raise BadInputError(
            f"{launch.run} was a rehearsal on this computer and has ended; to see its"
            f" logs, run: bert-jax tpu logs {launch.run}"
        )
    return connect(launch.project, url)


def watch(
    watcher: Watcher, pause: float = PAUSE, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Observe and act until the run is over.

    Raises:
        FailedError: The run failed.
        UserError: A request was refused for good.
    """
    last_line, printed_at = "", 0.0
    while True:
        try:
            observation, decision = watcher.observe()
            line = f"{decision.status}: {decision.reason}"
            news = not last_line.startswith(decision.status) or decision.action != "wait"
            if line != last_line and (news or time.monotonic() - printed_at > PAUSE):
                say(line)
                last_line, printed_at = line, time.monotonic()
            if watcher.act(observation, decision):
                if decision.failed:
                    raise FailedError(f"{watcher.launch.run}: {decision.reason}")
                return
        except (CloudError, UnreachableError) as error:
            if isinstance(error, CloudError) and not error.is_temporary:
                raise
            say(f"{error} (retrying)")
        sleep(pause)


def _newest_step(status: RunStatus) -> int:
    """Return the newest step that any host reported; -1 before the first."""
    steps = [heartbeat.step for heartbeat in status.heartbeats]
    steps += [max(attempt.step, attempt.ended_step) for attempt in status.attempts]
    return max(steps, default=-1)


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu watch",
        "Request a new slice after each preemption, until the run is complete. You may stop the"
        " watcher and start it again at any time, on any computer.",
    )
    parser.add_argument("run", help="folder of the run, such as gs://bucket/runs/base")
    parser.add_argument(
        "--keep-on-failure", action="store_true", help="keep the slice if the run fails"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the next action and exit")
    options = parse(parser, argv)
    watcher = watcher_of(options.run, options.keep_on_failure)
    if options.dry_run:
        _, decision = watcher.observe()
        line = f"{decision.status}: {decision.reason}; next: {decision.action}"
        print(printable(line))  # noqa: T201
        return
    watch(watcher)
