"""``python -m tpu status RUN``: the slice and each of its hosts, a line each."""

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


def report(launch: Launch, seen: Observation, decision: Decision) -> dict[str, Any]:
    """Everything, for programs."""
    resource = seen.resource
    return {
        "run": launch.run,
        "status": decision.status,
        "why": decision.why,
        "next": decision.do,
        "slice": launch.name,
        "accelerator": launch.tpu.accelerator,
        "zone": resource.zone if resource else None,
        "state": resource.state if resource else None,
        "nodes": [asdict(node) for node in resource.nodes] if resource else [],
        "workers": [asdict(beat) for beat in seen.markers.beats],
        "attempts": [asdict(attempt) for attempt in seen.markers.attempts],
    }


def table(launch: Launch, seen: Observation, decision: Decision) -> str:
    """Everything, for people."""
    resource = seen.resource
    where = f"{resource.state} in {resource.zone}" if resource else "not there"
    lines = [
        f"{launch.run}: {decision.status}, {decision.why}",
        f"{launch.name} ({launch.tpu.accelerator}): {where}",
    ]
    rows = [("worker", "attempt", "state", "step", "restarts", "heard of", "note")]
    rows += [
        (
            str(beat.worker),
            str(beat.attempt),
            beat.state,
            f"{beat.step:,}" if beat.step >= 0 else "-",
            str(beat.restarts),
            f"{beat.age:.0f} s ago",
            beat.note,
        )
        for beat in seen.markers.beats
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if len(rows) > 1 else []:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    lost = [a for a in seen.markers.attempts if a.ended]
    lines += [f"attempt {a.number} in {a.zone}: {a.ended} at step {a.ended_step:,}" for a in lost]
    return "\n".join(map(printable, lines))


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("tpu status", "What the slice of a run and its hosts are doing.")
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parse(parser, argv)
    watcher = watcher_of(options.run)
    seen, decision = watcher.look()
    if options.json:
        print(json.dumps(report(watcher.launch, seen, decision)))  # noqa: T201
    else:
        print(table(watcher.launch, seen, decision))  # noqa: T201
