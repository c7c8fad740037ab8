"""What the TPU compiler says of the paper's steps, for many slices: estimates, no measurements.

    python benchmarks/tpu_cost.py                       # all, an hour or more on two cores
    python benchmarks/tpu_cost.py --only base-512-v2-32

Needs libtpu, and no TPU. The time is the compiler's own cost model's on v2, v3 and v5p, elsewhere a
roofline of its counts of arithmetic and memory traffic.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from bert_jax.config.run import (
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    Phase,
    RunConfig,
)
from tpu.preflight.hlo_analysis import compiled
from tpu.slices import find

ACCELERATORS = {
    "base": ("v2-32", "v3-32", "v4-16", "v5litepod-16", "v5p-16", "v6e-8"),
    "large": ("v3-128", "v4-64", "v5litepod-64", "v5p-32", "v6e-16"),
}
LENGTHS = (128, 512)
BATCH = 256


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="such as base-512-v2-32")
    parser.add_argument("--whole-state", action="store_true", help="on every device")
    options = parser.parse_args()
    print("| network | batch | slice | chips | ms a step | estimate | temporary GiB"
          " | exchanged MB | FLOP/s of peak | compilation s |")  # fmt: skip
    print("|---|---|---|---:|---:|---|---:|---:|---:|---:|", flush=True)
    for size, names in ACCELERATORS.items():
        for length in LENGTHS:
            for name in names:
                if options.only and f"{size}-{length}-{name}" not in options.only:
                    continue
                row(size, length, name, not options.whole_state)


def row(size: str, length: int, name: str, sharded: bool) -> None:
    """One step."""
    on, phase = find(name), Phase(length, 1000, BATCH)
    config = RunConfig(
        run_dir="-",
        model=ModelConfig(preset=f"bert-{size}", vocab_size=30_522),
        optimizer=OptimizerConfig(recipe="bert2018"),
        phases=(phase,),
        parallel=replace(ParallelConfig(), shard_state=sharded),
    )
    started = time.perf_counter()
    found = compiled(config, phase, on)
    seconds = time.perf_counter() - started
    share = found.model_flops / (found.seconds * on.peak * on.devices)
    moved = sum(found.collectives.values()) / 1e6
    cells = (
        *(size, f"{BATCH} x {length}", name, str(on.chips), f"{found.seconds * 1000:.1f}"),
        *(found.estimate, f"{found.temp_gib:.2f}", f"{moved:,.0f}", f"{share:.0%}"),
        f"{seconds:.0f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
