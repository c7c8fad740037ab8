"""``python -m tools.drill``: inject every fault into real runs and print a table of the results."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from support.xla_flags import QUICKLY
from tools.drill import runner
from tools.drill.fixture import Fixture
from tools.drill.options import parser_of, seed_of, select
from tools.drill.report import Row, print_report


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("make drill", __doc__, "fault")
    parser.add_argument("--quick", action="store_true", help="run as few trials as the tests do")
    parser.add_argument("--list", action="store_true", help="print the names of the faults")
    parser.add_argument("--keep", action="store_true", help="keep the folder of all files")
    return parser


def main() -> None:
    """Run the drill; exit code 1 if a fault was not survived."""
    options = _parser().parse_args()
    all_faults = {fault.name: fault for fault in runner.all_faults()}
    names = select(list(all_faults), options.only, "fault")
    if options.list:
        print("\n".join(names))  # noqa: T201
        return
    faults, seed = [all_faults[name] for name in names], seed_of(options)
    print(f"seed {seed}: {len(faults)} faults", flush=True)  # noqa: T201
    started = time.monotonic()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = QUICKLY
    folder = Path(tempfile.mkdtemp(prefix="bert-jax-drill-"))
    # All processes share compiled programs, including small ones.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")

    def on_row(row: Row) -> None:
        state = "passed" if row.passed else "FAILED" if row.failures else "not triggered"
        seconds = time.monotonic() - started
        print(f"{seconds:5.0f} s  {row.fault}: {state}", flush=True)  # noqa: T201

    fixture = Fixture(folder)
    rows = list(runner.run_faults(faults, fixture, seed, options.quick, on_row))
    passed = print_report(rows, seed, started)
    if passed and not options.keep:
        shutil.rmtree(folder)
    else:
        print(f"the files of {'all' if passed else 'failed'} trials are in {folder}")  # noqa: T201
    sys.exit(not passed)


if __name__ == "__main__":
    main()
