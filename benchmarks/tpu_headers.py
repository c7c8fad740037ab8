"""The figures in the headers of configs/tpu: what the TPU compiler says of each; no measurements.

    python benchmarks/tpu_headers.py           # all, a quarter of an hour on two cores
    python benchmarks/tpu_headers.py --full configs/tpu/base_v6e_8.yaml

Prints the lines of the header. Needs libtpu, and no TPU.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

from pipelines.settings import command_parser
from tpu.config import read
from tpu.preflight.preflight import Plan, preflight
from tpu.slices import PRICES_AS_OF

CONFIGS = Path(__file__).parents[1] / "configs" / "tpu"


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path, default=sorted(CONFIGS.glob("*.yaml")))
    parser.add_argument("--full", action="store_true", help="several times slower than --quick")
    options = parser.parse_args()
    if not options.full:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    for path in options.configs:
        started = time.perf_counter()
        given = [str(path), "--model.vocab_size", "30522"]
        config, _ = read(command_parser("tpu preflight", ""), given)
        plan = preflight(config.run, config.tpu.slice)
        print(f"{path.name}, compiled in {time.perf_counter() - started:.0f} seconds")
        print("\n".join(header(plan, config.checkpoint.every, options.full)), flush=True)


def header(plan: Plan, every: int, full: bool) -> list[str]:
    """Lines of a header.

    Args:
        plan: Of the run.
        every: Updates between checkpoints.
        full: Whether it was compiled with full effort.
    """
    on = plan.on
    timed = plan.phases[0][1].estimate == "compiler"
    lines = [
        f"# Hardware: {on.name}, {on.chips} chips on {on.hosts} host{'s' * (on.hosts > 1)},"
        f" {on.devices} JAX devices of {on.hbm:g} GiB.",
        f"# Estimates of the TPU compiler ({'its cost model' if timed else 'a roofline'}), never"
        " measured on hardware:",
        f"# compiled with {'full effort' if full else '--quick'}, libtpu {version('libtpu')},"
        f" {datetime.now(UTC):%Y-%m-%d}; without evaluations, checkpoints and waiting.",
    ]
    for phase, program in plan.phases:
        hours, minutes = phase.steps * program.seconds / 3600, every * program.seconds / 60
        lines.append(
            f"#   length {phase.length}: {program.gib:.2f} of {on.hbm:g} GiB per device,"
            f" {program.seconds * 1000:.1f} ms a step, {hours:.2f} hours; a checkpoint every"
            f" {minutes:.1f} minutes"
        )
    dear, cheap = (plan.chip_hours * price for price in on.generation.prices or (0, 0))
    return [
        *lines,
        f"#   in all: {plan.hours:.2f} hours ({plan.hours / 24:.2f} days),"
        f" {plan.chip_hours:.1f} chip-hours, some {dear:.0f} USD on demand or {cheap:.0f} spot",
        f"#   ({PRICES_AS_OF})",
    ]


if __name__ == "__main__":
    main()
