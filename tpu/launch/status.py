"""``bert-jax tpu status RUN``: one line for the slice and one for each of its hosts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bert_jax.runtime.errors import printable
from pipelines.settings import command_parser, parse
from tpu.launch.decide import Decision, Observation
from tpu.launch.request import Launch
from tpu.launch.watch import watcher_of


def report(launch: Launch, observation: Observation, decision: Decision) -> dict[str, Any]:
    """Return the status for programs."""
    resource, status = observation.resource, observation.run_status
    return {
        "run": launch.run,
        "status": decision.status,
        "why": decision.reason,
        "next": decision.action,
        "slice": launch.name,
        "accelerator": launch.tpu.accelerator,
        "zone": resource.zone if resource else None,
        "state": resource.state if resource else None,
        "nodes": [asdict(node) for node in resource.nodes] if resource else [],
        "workers": [asdict(heartbeat) for heartbeat in status.heartbeats],
        "attempts": [asdict(attempt) for attempt in status.attempts],
    }


def table(launch: Launch, observation: Observation, decision: Decision) -> str:
    """Return the status for users."""
    resource, status = observation.resource, observation.run_status
    state = f"{resource.state} in {resource.zone}" if resource else "does not exist"
    lines = [
        f"{launch.run}: {decision.status}, {decision.reason}",
        f"{launch.name} ({launch.tpu.accelerator}): {state}",
    ]
    rows = [("worker", "attempt", "state", "step", "restarts", "last seen", "note")]
    rows += [
        (
            str(heartbeat.worker),
            str(heartbeat.attempt),
            heartbeat.state,
            f"{heartbeat.step:,}" if heartbeat.step >= 0 else "-",
            str(heartbeat.restarts),
            f"{heartbeat.age:.0f} s ago",
            heartbeat.note,
        )
        for heartbeat in status.heartbeats
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if len(rows) > 1 else []:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    ended = [a for a in status.attempts if a.ended]
    lines += [f"attempt {a.number} in {a.zone}: {a.ended} at step {a.ended_step:,}" for a in ended]
    return "\n".join(map(printable, lines))


def main(argv: Sequence[str]) -> None:
    parser = command_parser("tpu status", "Show the state of the slice of a run and of its hosts.")
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parse(parser, argv)
    watcher = watcher_of(options.run)
    observation, decision = watcher.observe()
    if options.json:
        print(json.dumps(report(watcher.launch, observation, decision)))  # noqa: T201
    else:
        print(table(watcher.launch, observation, decision))  # noqa: T201
