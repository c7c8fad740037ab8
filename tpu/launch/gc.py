"""``bert-jax tpu gc``: delete our failed and suspended slices, which count against the quota."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, UserError
from bert_jax.runtime.paths import at
from pipelines.settings import command_parser, parse
from tpu.config import resolve_project
from tpu.launch.decide import attempt_of
from tpu.launch.provider import QueuedResources, Resource, connect
from tpu.launch.request import MANAGED_BY

DEAD = ("FAILED", "SUSPENDED")


def dead(provider: QueuedResources, zones: Sequence[str]) -> list[Resource]:
    """Return the resources of this tool that never run again."""
    key, value = MANAGED_BY
    listed = [resource for zone in zones for resource in provider.list(zone)]
    return [r for r in listed if r.labels.get(key) == value and r.state in DEAD]


def _record_end(resource: Resource) -> None:
    """Record the end of the attempt, so that a watcher does not treat it as deleted by hand."""
    try:
        run = at(resource.metadata["bert-jax-run"])
        status, now = status_files.read_status(run)
        for attempt in status.attempts:
            if attempt.number == attempt_of(resource) and not attempt.ended:
                ended = "preempted" if resource.state == "SUSPENDED" else "broken"
                status_files.write_attempt(
                    run, replace(attempt, ended=ended, ended_at=now, ended_step=attempt.step)
                )
    except (KeyError, OSError, UserError) as error:
        say(f"{resource.name}: writing to its run folder failed ({error})")


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu gc",
        "Delete queued resources of this tool that are FAILED or SUSPENDED. They never run again"
        " and count against the quota. A watcher does this for its own run.",
    )
    parser.add_argument("--project", default="", help="default: GOOGLE_CLOUD_PROJECT")
    parser.add_argument("--zones", nargs="+", default=[], help="such as us-west4-a europe-west4-b")
    parser.add_argument("--dry-run", action="store_true", help="list them without deleting")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parse(parser, argv)
    if not options.zones:
        raise BadArgumentsError(
            "--zones is missing; name zones such as us-west4-a (see docs/tpu.md)"
        )
    provider = connect(resolve_project(options.project))
    resources = dead(provider, options.zones)
    for resource in resources:
        if not options.dry_run:
            _record_end(resource)
            provider.delete(resource.zone, resource.name)
    if options.json:
        print(json.dumps([{"name": r.name, "zone": r.zone, "state": r.state} for r in resources]))  # noqa: T201
        return
    for resource in resources:
        say(f"{resource.name} in {resource.zone}: {resource.state}")
    verb = "to delete" if options.dry_run else "being deleted"
    say(f"{len(resources)} slices {verb}")
