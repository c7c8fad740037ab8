"""Measure the step with more devices: by the TPU compiler, and on emulated CPU devices.

    python benchmarks/scaling.py --chips 16 64 256     # v3 chips, base, 8 x 128 per core; libtpu
    python benchmarks/scaling.py --emulated 1 2 4 8    # tiny, the same batch on each number

Weak scaling by the compiler: the rows per device are constant, and the ratio is the time on the
fewest chips divided by the time. The compiler's figures do not contain the number of chips; what
grows is the modeled exchange (tpu/preflight/estimates.py). Emulated devices share the same cores,
so there the ratio is the cost of splitting a batch.
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
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", nargs="*", type=int, default=[])
    parser.add_argument("--emulated", nargs="*", type=int, default=[])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(emulated(options.child))
        return
    if options.chips:
        by_compiler(options.chips)
    if options.emulated:
        print("| emulated devices | ms per step | ratio |\n|---:|---:|---:|")
        seconds = {}
        for count in options.emulated:
            flags = f"--xla_force_host_platform_device_count={count}"
            process = subprocess.run(
                [sys.executable, __file__, "--child", str(count)],
                env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds[count] = float(process.stdout.splitlines()[-1])
            ratio = seconds[options.emulated[0]] / seconds[count]
            print(f"| {count} | {seconds[count] * 1000:.1f} | {ratio:.2f} |", flush=True)


def by_compiler(chips: list[int]) -> None:
    """Print weak scaling on v3."""
    from bert_jax.config.accelerators import find_slice
    from bert_jax.config.model import ModelConfig
    from bert_jax.config.run import OptimizerConfig, ParallelConfig, Phase, RunConfig
    from tpu.preflight.hlo_analysis import compile_step

    print("| v3 chips | batch | ms per step | ratio | exchanged MB per device |")
    print("|---:|---:|---:|---:|---:|", flush=True)
    first = None
    for count in chips:
        slice_type = find_slice(f"v3-{2 * count}")
        phase = Phase(LENGTH, 1000, ROWS * slice_type.devices)
        config = RunConfig(
            run_dir="-",
            model=ModelConfig(preset="bert-base", vocab_size=30_522),
            optimizer=OptimizerConfig(recipe="bert2018"),
            phases=(phase,),
            parallel=ParallelConfig(shard_state=True),
        )
        program = compile_step(config, phase, slice_type)
        first = first or program.seconds
        exchanged = sum(program.collectives.values()) / 1e6
        print(
            f"| {count} | {phase.batch_size} | {program.seconds * 1000:.2f}"
            f" | {first / program.seconds:.3f} | {exchanged:,.0f} |",
            flush=True,
        )


def emulated(count: int) -> float:
    """Return the seconds of a step of bert-tiny on `count` devices."""
    import jax
    from pretraining import initial_state_and_step
    from step import arrays

    from bert_jax.config.model import ModelConfig
    from bert_jax.config.run import Phase, RunConfig
    from bert_jax.runtime.distributed import devices
    from bert_jax.training.partitioner import Partitioner

    model = ModelConfig(preset="bert-tiny", vocab_size=30_522, dtype="float32")
    config = RunConfig(run_dir="-", model=model, phases=(Phase(LENGTH, 1000, 16),))
    partitioner = Partitioner(devices()[:count])
    state, step = initial_state_and_step(config, partitioner)
    batch = partitioner.shard_batch(arrays(LENGTH, 16))
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    return float(np.array(statistics.median(seconds[2:])))


if __name__ == "__main__":
    main()
