"""Estimate the paper's steps with the TPU compiler for many slices; these are no measurements.

    python benchmarks/tpu_cost.py                       # all, an hour or more on two cores
    python benchmarks/tpu_cost.py --only base-512-v2-32

Needs libtpu, but no TPU. tpu/preflight/estimates.py says what the two estimates mean.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from bert_jax.config.accelerators import find_slice
from bert_jax.config.model import ModelConfig
from bert_jax.config.run import OptimizerConfig, ParallelConfig, Phase, RunConfig
from pipelines.settings import read_yaml
from tpu.config import SubmittedConfig
from tpu.preflight.hlo_analysis import compile_step

CONFIGS = Path(__file__).parents[1] / "configs" / "tpu"
FURTHER = {"base": ("v2-32",)}  # slices without a config
LENGTHS = (128, 512)
BATCH = 256


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="such as base-512-v2-32")
    parser.add_argument(
        "--whole-state", action="store_true", help="keep the whole state on every device"
    )
    options = parser.parse_args()
    print("| network | batch | slice | chips | ms by operations | ms by cycles | exchange ms"
          " | temporary GiB | exchanged MB | FLOP/s of peak | compilation s |")  # fmt: skip
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for size in ("base", "large"):
        for length in LENGTHS:
            for name in slice_names(size):
                if options.only and f"{size}-{length}-{name}" not in options.only:
                    continue
                row(size, length, name, not options.whole_state)


def slice_names(size: str) -> list[str]:
    """Return the slices of the configs for a network size, and further ones."""
    files = sorted(CONFIGS.glob(f"{size}_*.yaml"))
    configured = [read_yaml(path, SubmittedConfig)["tpu"]["accelerator"] for path in files]
    return [*FURTHER.get(size, ()), *configured]


def row(size: str, length: int, name: str, sharded: bool) -> None:
    """Print the row of one step."""
    slice_type, phase = find_slice(name), Phase(length, 1000, BATCH)
    config = RunConfig(
        run_dir="-",
        model=ModelConfig(preset=f"bert-{size}", vocab_size=30_522),
        optimizer=OptimizerConfig(recipe="bert2018"),
        phases=(phase,),
        parallel=replace(ParallelConfig(), shard_state=sharded),
    )
    started = time.perf_counter()
    program = compile_step(config, phase, slice_type)
    seconds = time.perf_counter() - started
    fraction = program.model_flops / (program.seconds * slice_type.peak * slice_type.devices)
    exchanged = sum(program.collectives.values()) / 1e6
    cells = (
        *(size, f"{BATCH} x {length}", name, f"{slice_type.chips}"),
        f"{program.time.operations * 1000:.2f}",
        f"{program.time.cycles * 1000:.2f}",
        f"{program.time.exchange * 1000:.2f}",
        *(f"{program.temp_gib:.2f}", f"{exchanged:,.0f}", f"{fraction:.0%}"),
        f"{seconds:.0f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
