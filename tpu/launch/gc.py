"""``python -m tpu gc``: delete our slices that are dead and still count against the quota."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, UserError
from bert_jax.runtime.paths import at
from pipelines.settings import command_parser, parse
from tpu.config import project_of
from tpu.launch.decide import attempt_of
from tpu.launch.provider import Provider, Resource, connect
from tpu.launch.request import MANAGED_BY

DEAD = ("FAILED", "SUSPENDED")


def dead(provider: Provider, zones: Sequence[str]) -> list[Resource]:
    """Ours that will never run again; nobody else's."""
    key, value = MANAGED_BY
    found = [resource for zone in zones for resource in provider.list(zone)]
    return [r for r in found if r.labels.get(key) == value and r.state in DEAD]


def _write_down(resource: Resource) -> None:
    """Tells the run, or its watcher would take the slice for deleted by hand."""
    try:
        run = at(resource.metadata["bert-jax-run"])
        found, now = status_files.look(run)
        for attempt in found.attempts:
            if attempt.number == attempt_of(resource) and not attempt.ended:
                why = "preempted" if resource.state == "SUSPENDED" else "broken"
                end = replace(attempt, ended=why, ended_at=now, ended_step=attempt.step)
                status_files.record(run, end)
    except (KeyError, OSError, UserError) as error:
        say(f"{resource.name}: its run folder could not be told ({error})")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "tpu gc",
        "Deletes queued resources of this tool that are FAILED or SUSPENDED: they never run again"
        " and count against the quota. A watcher does this by itself for its own run.",
    )
    parser.add_argument("--project", default="", help="the environment's GOOGLE_CLOUD_PROJECT")
    parser.add_argument("--zones", nargs="+", default=[], help="such as us-west4-a europe-west4-b")
    parser.add_argument("--dry-run", action="store_true", help="only list them")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parse(parser, argv)
    if not options.zones:
        raise BadArgumentsError("give --zones, such as us-west4-a; docs/tpu.md lists them")
    provider = connect(project_of(options.project))
    found = dead(provider, options.zones)
    for resource in found:
        if not options.dry_run:
            _write_down(resource)
            provider.delete(resource.zone, resource.name)
    if options.json:
        print(json.dumps([{"name": r.name, "zone": r.zone, "state": r.state} for r in found]))  # noqa: T201
        return
    for resource in found:
        say(f"{resource.name} in {resource.zone}: {resource.state}")
    verb = "would be deleted" if options.dry_run else "are being deleted"
    say(f"{len(found)} {verb}")
