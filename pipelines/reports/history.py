"""What happened to a run, in order, and what it has cost."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.folders import RUN_LAUNCH
from pipelines.reports.report_tables import NONE, Table, moment, number, span
from pipelines.reports.run import Run, text
from tpu.slices import PRICES_AS_OF, Slice, find

_MOST = 200  # events that are listed
_LATEST = 4e9  # seconds since 1970
_REHEARSED = "emulated"  # the project of `python -m tpu local`


@dataclass(frozen=True)
class Cost:
    """What a run has cost.

    Attributes:
        table: Slices of Cloud TPUs; None of other machines.
        line: The sum, in words.
    """

    table: Table | None
    line: str


def events(run: Run) -> Table | None:
    """Starts, rollbacks, skipped batches and slices; None where nothing is known."""
    found: list[tuple[float, str, str]] = []
    reached = 0
    for place, session in enumerate(run.sessions):
        first, *rollbacks = session.starts
        what = f"went on from step {first:,}" if place or first else "began"
        if place and reached > first:
            what += f"; {reached - first:,} steps were done again"
        found.append((session.begun, what, moment(session.begun)))
        for step in rollbacks:
            found.append((session.begun + 1e-3, f"rolled back to step {step:,}", NONE))
        what = f"ended; its last line is of step {session.reached:,}"
        if session.stopped is not None:
            what = f"told to stop; step {session.stopped:,} is saved"
        found.append((session.ended, what, moment(session.ended)))
        reached = session.reached
    for a in run.attempts:
        found.append((a.created, f"slice {a.number} in {a.zone} was asked for", moment(a.created)))
        if a.ended:
            why = f"slice {a.number}: {a.ended} at step {max(0, a.ended_step):,}"
            note = f" ({a.note})" if a.note else ""
            found.append((a.ended_at, why + note, moment(a.ended_at)))
    rows = [[when, what] for _, what, when in sorted(found, key=lambda one: one[0])]
    if run.skipped:
        rows.append([NONE, f"skipped as not finite: {_ranges(run.skipped)}"])
    if len(rows) > _MOST:
        left = len(rows) - _MOST
        rows = [*rows[: _MOST // 2], [NONE, f"… {left:,} more …"], *rows[-_MOST // 2 :]]
    return Table(["when", "what"], rows, words=True) if rows else None


def _ranges(steps: list[int]) -> str:
    """Steps as "7, 9-12"."""
    parts: list[list[int]] = []
    for step in sorted(set(steps)):
        if parts and step == parts[-1][1] + 1:
            parts[-1][1] = step
        else:
            parts.append([step, step])
    shown = ", ".join(f"{a:,}" if a == b else f"{a:,}-{b:,}" for a, b in parts[:_MOST])
    return f"batches {shown}" if len(steps) > 1 else f"batch {shown}"


def cost(run: Run) -> Cost | None:
    """Chip-hours and dollars of slices, device-hours elsewhere; None where nothing is known."""
    launched = _launched(run)
    if not run.attempts or launched is None:
        return _device_hours(run)
    kind, count, capacity, rehearsed = launched
    heard, hours, rows = status_files.newest_beat(run.path), 0.0, []
    for a in run.attempts:
        # One that is still there costs at least until its hosts were heard of last.
        until = a.ended_at if a.ended else max(heard, a.active)
        lasted = max(0.0, until - a.active) / 3600 if a.active else 0.0
        spent = lasted * kind.chips * count
        hours += spent
        ending = a.ended or "there"
        rows.append([str(a.number), a.zone, ending, span(lasted * 3600), f"{spent:,.2f}"])
    table = Table(["slice", "zone", "ended", "was there", "chip-hours"], rows)
    what = f"{count} x {kind.name}" if count > 1 else kind.name
    line = f"{hours:,.2f} chip-hours on {what} ({kind.chips * count} chips, {capacity})"
    prices = kind.generation.prices
    if rehearsed:
        return Cost(table, f"{line}, in a rehearsal with emulated machines: it cost nothing.")
    if prices is None or capacity == "reserved":
        return Cost(table, f"{line}; the price of these is not known here.")
    dollars = hours * prices[capacity == "spot"]
    return Cost(table, f"{line}, some {dollars:,.2f} USD ({PRICES_AS_OF}; an estimate, no bill).")


def _device_hours(run: Run) -> Cost | None:
    hours: dict[str, float] = {}
    for one in run.sessions:
        if one.devices and 0 <= one.begun <= one.ended < _LATEST:
            spent = one.devices * (one.ended - one.begun) / 3600
            hours[one.kind] = hours.get(one.kind, 0.0) + spent
    if not hours:
        return None
    parts = [f"{number(spent)} device-hours on {kind}" for kind, spent in hours.items()]
    return Cost(
        None,
        f"{' and '.join(parts)}: devices x time between the first and the last line of every"
        " process (an estimate, no bill).",
    )


def _launched(run: Run) -> tuple[Slice, int, str, bool] | None:
    """Slice, how many, capacity and whether it was a rehearsal."""
    try:
        found = json.loads(text(run.path / RUN_LAUNCH / "launch.json"))
        tpu = found["tpu"]
        count = tpu["slices"]
        kind = find(str(tpu["accelerator"]))
        if type(count) is not int or not 0 < count < 1 << 20:
            return None
        return kind, count, str(tpu["capacity"]), found["project"] == _REHEARSED
    except (ValueError, TypeError, LookupError, RecursionError, BadArgumentsError):
        return None
