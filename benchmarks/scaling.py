"""How the step goes on with more devices: by the TPU compiler, and on emulated CPU devices.

    python benchmarks/scaling.py --chips 16 64 256     # v3 chips, base, 8 x 128 a core; libtpu
    python benchmarks/scaling.py --emulated 1 2 4 8    # tiny, the same batch on each number

Weak scaling by the compiler: rows per device stay, and the ratio is time on the fewest chips to
time. What its cost model says of collective operations is not known; the bytes are counted.
Emulated devices share the same cores, so there the ratio tells what splitting a batch costs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np

ROWS, LENGTH = 8, 128


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", nargs="*", type=int, default=[])
    parser.add_argument("--emulated", nargs="*", type=int, default=[])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(emulated(options.one))
        return
    if options.chips:
        by_compiler(options.chips)
    if options.emulated:
        print("| emulated devices | ms a step | ratio |\n|---:|---:|---:|")
        seconds = {}
        for count in options.emulated:
            flags = f"--xla_force_host_platform_device_count={count}"
            found = subprocess.run(
                [sys.executable, __file__, "--one", str(count)],
                env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds[count] = float(found.stdout.splitlines()[-1])
            ratio = seconds[options.emulated[0]] / seconds[count]
            print(f"| {count} | {seconds[count] * 1000:.1f} | {ratio:.2f} |", flush=True)


def by_compiler(chips: list[int]) -> None:
    """Weak scaling on v3."""
    from bert_jax.config.run import (
        ModelConfig,
        OptimizerConfig,
        ParallelConfig,
        Phase,
        RunConfig,
    )
    from tpu.preflight.hlo_analysis import compiled
    from tpu.slices import find

    print("| v3 chips | batch | ms a step | ratio | exchanged MB per device |")
    print("|---:|---:|---:|---:|---:|", flush=True)
    first = None
    for count in chips:
        on = find(f"v3-{2 * count}")
        phase = Phase(LENGTH, 1000, ROWS * on.devices)
        config = RunConfig(
            run_dir="-",
            model=ModelConfig(preset="bert-base", vocab_size=30_522),
            optimizer=OptimizerConfig(recipe="bert2018"),
            phases=(phase,),
            parallel=ParallelConfig(shard_state=True),
        )
        found = compiled(config, phase, on)
        first = first or found.seconds
        moved = sum(found.collectives.values()) / 1e6
        print(
            f"| {count} | {phase.batch_size} | {found.seconds * 1000:.2f}"
            f" | {first / found.seconds:.3f} | {moved:,.0f} |",
            flush=True,
        )


def emulated(count: int) -> float:
    """Seconds of a step of tiny on so many devices."""
    import jax
    from pretraining import begun
    from step import arrays

    from bert_jax.config.run import ModelConfig, Phase, RunConfig
    from bert_jax.runtime.distributed import devices
    from bert_jax.training.partitioner import Partitioner

    model = ModelConfig(preset="bert-tiny", vocab_size=30_522, dtype="float32")
    config = RunConfig(run_dir="-", model=model, phases=(Phase(LENGTH, 1000, 16),))
    partitioner = Partitioner(devices()[:count])
    (state, step), batch = begun(config, partitioner), partitioner.shard_batch(arrays(LENGTH, 16))
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    return float(np.array(statistics.median(seconds[2:])))


if __name__ == "__main__":
    main()
