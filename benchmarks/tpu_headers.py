"""Estimate the figures in the headers of configs/tpu with the TPU compiler.

    python benchmarks/tpu_headers.py           # all, a quarter of an hour on two cores
    python benchmarks/tpu_headers.py --full configs/tpu/base_v6e_8.yaml

Prints the lines of the headers. Needs libtpu, but no TPU.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

from bert_jax.config.accelerators import prices_as_of
from pipelines.settings import command_parser
from tpu.config import read
from tpu.preflight.preflight import Plan, preflight

CONFIGS = Path(__file__).parents[1] / "configs" / "tpu"


def main() -> None:
    """Compile the configs and print their headers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path, default=sorted(CONFIGS.glob("*.yaml")))
    parser.add_argument("--full", action="store_true", help="several times slower than --quick")
    options = parser.parse_args()
    if not options.full:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    for path in options.configs:
        started = time.perf_counter()
        arguments = [str(path), "--model.vocab_size", "30522"]
        config, _ = read(command_parser("tpu preflight", ""), arguments)
        plan = preflight(config.run, config.tpu.slice)
        print(f"{path.name}, compiled in {time.perf_counter() - started:.0f} seconds")
        print("\n".join(header(plan, config.checkpoint.every, options.full)), flush=True)


def header(plan: Plan, every: int, full: bool) -> list[str]:
    """Return the lines of a header.

    Args:
        plan: Of the run.
        every: Updates between checkpoints.
        full: True if compiled with full effort.
    """
    slice_ = plan.slice
    lines = [
        f"# Hardware: {slice_.name}, {slice_.chips} chips on {slice_.hosts}"
        f" host{'s' * (slice_.hosts > 1)},"
        f" {slice_.devices} JAX devices of {slice_.hbm:g} GiB.",
        "# Estimates of the TPU compiler (the larger of its two, and the exchange between chips),"
        " never measured on hardware:",
        f"# compiled with {'full effort' if full else '--quick'}, libtpu {version('libtpu')},"
        f" {datetime.now(UTC):%Y-%m-%d}; without evaluations, checkpoints and waiting.",
    ]
    for phase, step in plan.phases:
        hours, minutes = phase.steps * step.seconds / 3600, every * step.seconds / 60
        lines.append(
            f"#   length {phase.length}: {step.gib:.2f} of {slice_.hbm:g} GiB per device,"
            f" {step.seconds * 1000:.1f} ms per step, {hours:.2f} hours; a checkpoint every"
            f" {minutes:.1f} minutes"
        )
    prices = slice_.generation.prices or {}
    on_demand, spot = (plan.chip_hours * prices.get(c, 0.0) for c in ("on-demand", "spot"))
    return [
        *lines,
        f"#   total: {plan.hours:.2f} hours ({plan.hours / 24:.2f} days),"
        f" {plan.chip_hours:.1f} chip-hours, about {on_demand:.0f} USD on demand or"
        f" {spot:.0f} spot",
        f"#   ({prices_as_of()})",
    ]


if __name__ == "__main__":
    main()
