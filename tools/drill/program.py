"""Calls the faults, three at a time, and adds up what they tell."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from tools.drill import damage, disks, hostile, numerics, signals, soak, surroundings
from tools.drill.report import Row
from tools.drill.stage import Fault, Stage

_LANES = 3  # on two cores: some faults wait


def all_faults() -> list[Fault]:
    """Of the whole drill, in the order of the table."""
    modules = (signals, damage, disks, surroundings, numerics, hostile, soak)
    return [fault for module in modules for fault in module.faults()]


def drill(
    faults: Sequence[Fault],
    stage: Stage,
    seed: int,
    quick: bool = False,
    told: Callable[[Row], None] = lambda row: None,
) -> Iterator[Row]:
    """Calls `faults`, and gives a row for each.

    Args:
        faults: In the order of the rows.
        stage: Where.
        seed: Of all random moments; a fault draws the same whatever others are called.
        quick: As the tests do it instead of the whole drill.
        told: Hears of the row of every job that ended.
    """
    stage.prepared()
    with ThreadPoolExecutor(_LANES) as lanes:
        jobs: dict[str, list[Future[Row]]] = {}

        def job(fault: Fault, number: int) -> Row:
            rng = random.Random(f"{seed} {fault.name} {number}")  # noqa: S311
            try:
                row = fault.trial(stage, rng)
            except Exception:  # a fault of the drill itself must be seen, and the rest be done
                row = Row(fault.name, 1, 0, failures=(f"job {number}: {traceback.format_exc()}",))
            # Where the drill takes place says nothing.
            row = replace(row, message=row.message.replace(f"{stage.folder}/", ""))
            told(row)
            return row

        beside = [fault for fault in faults if not fault.alone]
        for fault in beside:
            count = fault.quick if quick else fault.jobs
            jobs[fault.name] = [lanes.submit(job, fault, number) for number in range(count)]
        for fault in faults:
            if fault.alone:
                for lane in [future for futures in jobs.values() for future in futures]:
                    lane.result()
                count = fault.quick if quick else fault.jobs
                jobs[fault.name] = [lanes.submit(job, fault, number) for number in range(count)]
                for lane in jobs[fault.name]:
                    lane.result()
        for fault in faults:
            rows = [future.result() for future in jobs[fault.name]]
            if rows:
                yield sum(rows[1:], rows[0])
