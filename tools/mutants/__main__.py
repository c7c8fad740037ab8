"""``python -m tools.mutants``: insert faults into the product; report which tests detect them."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tools.mutants import report
from tools.mutants.catalog import FAULTS
from tools.mutants.fault import Fault, problems
from tools.mutants.plan import Plan
from tools.mutants.trial import Trials
from tools.mutants.workspace import Workspace

_ROOT = Path(__file__).parents[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("make mutants", description=__doc__)
    add = parser.add_argument
    add("--tree", type=Path, default=_ROOT, metavar="DIR", help="checkout to test; this one")
    add("--python", default=sys.executable, metavar="FILE", help="with the packages of the tests")
    add("--only", nargs="+", default=[], metavar="NAME", help="these faults alone")
    add("--jobs", type=int, default=1, metavar="N", help="copies of the tree at work at once")
    add(
        "--limit",
        type=float,
        default=600,
        metavar="S",
        help="seconds after which a test counts as hung",
    )
    add("--near", action="store_true", help="the nearest tests only; --resume tries the others")
    add("--json", type=Path, metavar="FILE", help="write the results to this file as they come")
    add("--resume", type=Path, metavar="FILE", help="skip the faults that have a result there")
    add("--markdown", type=Path, metavar="FILE", help="write a table of the results")
    add("--list", action="store_true", help="print the faults and exit")
    add("--check", action="store_true", help="compare the faults with the tree and exit")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(argv)
    tree = options.tree.resolve()
    faults = _chosen(options.only)
    if options.list:
        for fault in faults:
            _say(f"{fault.name:40} {fault.file:36} {fault.description}")
        return 0
    if found := problems(faults, tree):
        _say("\n".join(found))
        return 1
    if options.check:
        _say(f"{len(faults)} faults fit {tree}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = report.Log(options.json or options.resume, options.resume)
    left = [
        fault for fault in faults if fault.name not in log.results or log.results[fault.name].error
    ]
    try:
        _try_all(left, log, options)
    except KeyboardInterrupt:
        _say("stopped; --resume goes on")
        return 130
    results = [log.results[fault.name] for fault in faults if fault.name in log.results]
    if options.markdown is not None:
        options.markdown.write_text(report.markdown(results, log.unreliable.all()), "utf-8")
    _say(report.summary(results))
    return 0


def _chosen(names: Sequence[str]) -> list[Fault]:
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"there is no fault {unknown[0]!r}; --list prints all")
    return [known[name] for name in names] or list(FAULTS)


def _try_all(faults: Sequence[Fault], log: report.Log, options: argparse.Namespace) -> None:
    """Try faults, as many at once as there are jobs."""
    folder = Path(tempfile.mkdtemp(prefix="faults-")).resolve()
    free: SimpleQueue[Trials] = SimpleQueue()
    places: list[Workspace] = []
    jobs = min(options.jobs, len(faults))
    try:
        for number in range(jobs):
            place = Workspace(options.tree.resolve(), folder, number, options.python, options.limit)
            places.append(place)
            plan = Plan(place.tree, options.python)
            free.put(Trials(place, plan, log.unreliable, _say, options.near))

        if places:
            _check_collection(places[0])

        def attempt(fault: Fault) -> None:
            trials = free.get()
            try:
                result = trials.attempt(fault)
            finally:
                free.put(trials)
            log.add(result)
            _say(f"{len(log.results)}/{len(FAULTS)} {report.line(result)}")

        with ThreadPoolExecutor(max(1, jobs)) as pool:
            under_way = [pool.submit(attempt, fault) for fault in faults]
            try:
                for future in under_way:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for place in places:
                    place.stop()
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_collection(place: Workspace) -> None:
    """Refuse a tree or an interpreter with which the tests cannot even be collected."""
    run = place.pytest(["tests"], ("--collect-only",))
    if not run.passed:
        sys.exit(f"the tests cannot be collected: {run.test or run.said[-400:].strip()}")


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
