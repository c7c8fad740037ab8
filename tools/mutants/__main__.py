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
    add(
        "--tree",
        type=Path,
        default=_ROOT,
        metavar="DIR",
        help="tree to test (default: this one)",
    )
    add(
        "--python",
        default=sys.executable,
        metavar="FILE",
        help="has the test packages",
    )
    add("--only", nargs="+", default=[], metavar="NAME", help="only these faults")
    add("--jobs", type=int, default=1, metavar="N", help="number of parallel copies of the tree")
    add(
        "--limit",
        type=float,
        default=600,
        metavar="S",
        help="seconds after which a test counts as hung",
    )
    add("--near", action="store_true", help="run only the nearest tests; --resume runs the others")
    add("--json", type=Path, metavar="FILE", help="write each result to this file")
    add("--resume", type=Path, metavar="FILE", help="skip the faults with a result in this file")
    add("--markdown", type=Path, metavar="FILE", help="write a table of the results")
    add("--list", action="store_true", help="print the faults and exit")
    add("--check", action="store_true", help="compare the faults with the tree and exit")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(argv)
    tree = options.tree.resolve()
    faults = _selected(options.only)
    if options.list:
        for fault in faults:
            _print(f"{fault.name:40} {fault.file:36} {fault.description}")
        return 0
    if mismatches := problems(faults, tree):
        _print("\n".join(mismatches))
        return 1
    if options.check:
        _print(f"{len(faults)} faults fit {tree}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = report.Log(options.json or options.resume, options.resume)
    pending = [
        fault for fault in faults if fault.name not in log.results or log.results[fault.name].error
    ]
    try:
        _try_all(pending, log, options)
    except KeyboardInterrupt:
        _print("stopped; continue with --resume")
        return 130
    results = [log.results[fault.name] for fault in faults if fault.name in log.results]
    if options.markdown is not None:
        options.markdown.write_text(report.markdown(results, log.unreliable.all()), "utf-8")
    _print(report.summary(results))
    return 0


def _selected(names: Sequence[str]) -> list[Fault]:
    by_name = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in names if name not in by_name]:
        sys.exit(f"no fault {unknown[0]!r}; --list prints all")
    return [by_name[name] for name in names] or list(FAULTS)


def _try_all(faults: Sequence[Fault], log: report.Log, options: argparse.Namespace) -> None:
    """Try faults in parallel, each job in its own copy of the tree."""
    folder = Path(tempfile.mkdtemp(prefix="faults-")).resolve()
    free: SimpleQueue[Trials] = SimpleQueue()
    workspaces: list[Workspace] = []
    jobs = min(options.jobs, len(faults))
    try:
        for number in range(jobs):
            workspace = Workspace(
                options.tree.resolve(), folder, number, options.python, options.limit
            )
            workspaces.append(workspace)
            plan = Plan(workspace.tree, options.python)
            free.put(Trials(workspace, plan, log.unreliable, _print, options.near))

        if workspaces:
            _check_collection(workspaces[0])

        def attempt(fault: Fault) -> None:
            trials = free.get()
            try:
                result = trials.attempt(fault)
            finally:
                free.put(trials)
            log.add(result)
            _print(f"{len(log.results)}/{len(FAULTS)} {report.line(result)}")

        with ThreadPoolExecutor(max(1, jobs)) as pool:
            futures = [pool.submit(attempt, fault) for fault in faults]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for workspace in workspaces:
                    workspace.stop()
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_collection(workspace: Workspace) -> None:
    """Exit if the tests cannot be collected with this tree and interpreter."""
    run = workspace.pytest(["tests"], ("--collect-only",))
    if not run.passed:
        sys.exit(f"the tests cannot be collected: {run.test or run.output[-400:].strip()}")


def _print(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
