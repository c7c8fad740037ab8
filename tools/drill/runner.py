"""Runs the trials of faults in parallel and sums their results."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from tools.drill import damage, disks, environment_faults, hostile, numerics, signals, soak
from tools.drill.fixture import Fault, Fixture
from tools.drill.report import Row

_THREADS = 3  # on two cores: some faults wait


def all_faults() -> list[Fault]:
    """Return all faults in the order of the table."""
    modules = (signals, damage, disks, environment_faults, numerics, hostile, soak)
    return [fault for module in modules for fault in module.faults()]


def run_faults(
    faults: Sequence[Fault],
    fixture: Fixture,
    seed: int,
    quick: bool = False,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Iterator[Row]:
    """Run the trials of `faults` and yield a row for each fault.

    Args:
        faults: In the order of the rows.
        fixture: Shared by all trials.
        seed: Seed of all random choices; those of a fault do not depend on the other faults.
        quick: Run as few trials as the tests do.
        on_row: Called with the row of each job that has ended.
    """
    fixture.build()
    with ThreadPoolExecutor(_THREADS) as pool:
        jobs: dict[str, list[Future[Row]]] = {}

        def job(fault: Fault, number: int) -> Row:
            rng = random.Random(f"{seed} {fault.name} {number}")  # noqa: S311
            try:
                row = fault.trial(fixture, rng)
            except Exception:  # an error of the drill itself becomes a row; the others go on
                row = Row(fault.name, 1, 0, failures=(f"job {number}: {traceback.format_exc()}",))
            row = replace(row, message=row.message.replace(f"{fixture.root}/", ""))
            on_row(row)
            return row

        def submit(fault: Fault) -> None:
            count = fault.quick if quick else fault.jobs
            jobs[fault.name] = [pool.submit(job, fault, number) for number in range(count)]

        for fault in faults:
            if not fault.alone:
                submit(fault)
        for fault in faults:
            if fault.alone:
                _wait(jobs)
                submit(fault)
                _wait(jobs)
        for fault in faults:
            rows = [future.result() for future in jobs[fault.name]]
            if rows:
                yield sum(rows[1:], rows[0])


def _wait(jobs: dict[str, list[Future[Row]]]) -> None:
    for futures in jobs.values():
        for future in futures:
            future.result()
