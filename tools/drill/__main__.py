"""``python -m tools.drill``: every fault, and a table of what came of it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from support.xla_flags import QUICKLY
from tools.drill import program
from tools.drill.options import chosen, parser_of, seed_of
from tools.drill.report import Row, show
from tools.drill.stage import Stage


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("make drill", __doc__, "fault")
    parser.add_argument("--quick", action="store_true", help="as in make test: minutes less")
    parser.add_argument("--list", action="store_true", help="the names of the faults")
    parser.add_argument("--keep", action="store_true", help="keep the folder of what failed")
    return parser


def main() -> None:
    """Runs the drill; exit code 1 if something was lost."""
    options = _parser().parse_args()
    known = {fault.name: fault for fault in program.all_faults()}
    names = chosen(list(known), options.only, "fault")
    if options.list:
        print("\n".join(names))  # noqa: T201
        return
    faults, seed = [known[name] for name in names], seed_of(options)
    print(f"seed {seed}: {len(faults)} faults", flush=True)  # noqa: T201
    began = time.monotonic()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = QUICKLY
    folder = Path(tempfile.mkdtemp(prefix="bert-jax-drill-"))
    # Programs that one process compiled are reused by the others, as in real life; also small ones.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")

    def told(row: Row) -> None:
        state = "held" if row.held else "FAILED" if row.failures else "not struck"
        print(f"{time.monotonic() - began:5.0f} s  {row.fault}: {state}", flush=True)  # noqa: T201

    stage = Stage(folder)
    held = show(list(program.drill(faults, stage, seed, options.quick, told)), seed, began)
    if held and not options.keep:
        stage.remove(folder)
    else:
        print(f"{'everything' if held else 'what failed'} is in {folder}")  # noqa: T201
    sys.exit(not held)


if __name__ == "__main__":
    main()
