"""Events of a run in order, and its cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from bert_jax.config.accelerators import Slice, find_slice, prices_as_of
from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.folders import RUN_LAUNCH
from pipelines.reports.report_tables import NONE, Table, moment, number, span
from pipelines.reports.run import Run, text

_MAX_EVENTS = 200
_REHEARSAL_PROJECT = "emulated"  # the project of `bert-jax tpu local`


@dataclass(frozen=True)
class Cost:
    """Cost of a run.

    Attributes:
        table: Slices of Cloud TPUs; None on other machines.
        line: The sum, in words.
    """

    table: Table | None
    line: str


def events(run: Run) -> Table | None:
    """Return starts, rollbacks, skipped batches and slices; None if nothing is recorded."""
    timed = sorted([*_of_sessions(run), *_of_slices(run)], key=lambda event: event[0])
    rows = [[when, what] for _, when, what in timed]
    if run.skipped:
        rows.append([NONE, f"skipped as not finite: {_ranges(run.skipped)}"])
    if len(rows) > _MAX_EVENTS:
        hidden, half = len(rows) - _MAX_EVENTS, _MAX_EVENTS // 2
        rows = [*rows[:half], [NONE, f"… {hidden:,} more …"], *rows[-half:]]
    return Table(["when", "what"], rows, words=True) if rows else None


def _of_sessions(run: Run) -> Iterator[tuple[float, str, str]]:
    """Yield time, the same in words, and event."""
    last_step = 0
    for session in run.sessions:
        first = session.first_step
        resumed = first or session is not run.sessions[0]
        what = f"resumed from step {first:,}" if resumed else "started"
        if last_step > first:
            what += f"; {last_step - first:,} steps are repeated"
        yield session.started, moment(session.started), what
        for step in session.rollbacks:
            yield session.started + 1e-3, NONE, f"rolled back to step {step:,}"
        last_step = session.last_step
        what = f"ended; the last logged step is {last_step:,}"
        if session.ending == "stop":
            what = f"stopped on request; step {last_step:,} is saved"
        yield session.ended, moment(session.ended), what


def _of_slices(run: Run) -> Iterator[tuple[float, str, str]]:
    for a in run.attempts:
        yield a.created, moment(a.created), f"slice {a.number} requested in {a.zone}"
        if a.ended:
            note = f" ({a.note})" if a.note else ""
            what = f"slice {a.number}: {a.ended} at step {max(0, a.ended_step):,}{note}"
            yield a.ended_at, moment(a.ended_at), what


def _ranges(steps: list[int]) -> str:
    """Format steps as "7, 9-12"."""
    parts: list[list[int]] = []
    for step in sorted(set(steps)):
        if parts and step == parts[-1][1] + 1:
            parts[-1][1] = step
        else:
            parts.append([step, step])
    ranges = (f"{a:,}" if a == b else f"{a:,}-{b:,}" for a, b in parts[:_MAX_EVENTS])
    return f"{'batches' if len(steps) > 1 else 'batch'} {', '.join(ranges)}"


def cost(run: Run) -> Cost | None:
    """Return chip-hours and dollars of slices, or device-hours; None if nothing is recorded."""
    launch = _launch(run)
    if not run.attempts or launch is None:
        return _device_hours(run)
    kind, count, capacity, is_rehearsal = launch
    heartbeat, hours, rows = status_files.newest_heartbeat(run.path), 0.0, []
    for a in run.attempts:
        # A slice that still exists costs at least until the newest heartbeat of its hosts.
        until = a.ended_at if a.ended else max(heartbeat, a.active)
        active = max(0.0, until - a.active) / 3600 if a.active else 0.0
        chip_hours = active * kind.chips * count
        hours += chip_hours
        ending = a.ended or "exists"
        rows.append([str(a.number), a.zone, ending, span(active * 3600), f"{chip_hours:,.2f}"])
    table = Table(["slice", "zone", "ended", "existed for", "chip-hours"], rows)
    what = f"{count} x {kind.name}" if count > 1 else kind.name
    line = f"{hours:,.2f} chip-hours on {what} ({kind.chips * count} chips, {capacity})"
    prices = kind.generation.prices
    if is_rehearsal:
        return Cost(table, f"{line}, in a rehearsal with emulated machines, free of charge.")
    if prices is None or capacity not in prices:
        return Cost(table, f"{line}; their price is unknown.")
    dollars = hours * prices[capacity]
    bill = f"about {dollars:,.2f} USD ({prices_as_of()}; an estimate, not a bill)"
    return Cost(table, f"{line}, {bill}.")


def _device_hours(run: Run) -> Cost | None:
    hours: dict[str, float] = {}
    for session in run.sessions:
        spent = session.devices * (session.ended - session.started) / 3600
        hours[session.device_kind] = hours.get(session.device_kind, 0.0) + spent
    parts = [f"{number(spent)} device-hours on {kind}" for kind, spent in hours.items() if spent]
    if not parts:
        return None
    return Cost(
        None,
        f"{' and '.join(parts)}: number of devices x time between the first and the last log line"
        " of each session (an estimate, not a bill).",
    )


def _launch(run: Run) -> tuple[Slice, int, str, bool] | None:
    """Return slice type, number of slices, capacity, and True for a rehearsal."""
    try:
        launch = json.loads(text(run.path / RUN_LAUNCH / "launch.json"))
        tpu = launch["tpu"]
        count = tpu["slices"]
        kind = find_slice(str(tpu["accelerator"]))
        if type(count) is not int or not 0 < count < 1 << 20:
            return None
        return kind, count, str(tpu["capacity"]), launch["project"] == _REHEARSAL_PROJECT
    except (ValueError, TypeError, LookupError, RecursionError, BadArgumentsError):
        return None
