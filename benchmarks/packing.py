"""Measure packing: real tokens per second of training with several sequences in a row or one.

    python benchmarks/packing.py STORE --size mini --length 512 --batch 8

Both train on batches of the store, in turns. Packing can gain at most what padding costs, which the
column "fill" shows; this depends on the lengths of the documents in the store.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
from pretraining import initial_state_and_step

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import DataConfig, Phase, RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store

WARM_UP, MEASUREMENTS = 2, 6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--updates", type=int, default=3, help="per measurement")
    options = parser.parse_args()
    contestants = {packing: Contestant(options, packing) for packing in (False, True)}
    for contestant in contestants.values():
        contestant.run(WARM_UP)
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(MEASUREMENTS):
        for packing, contestant in contestants.items():
            speeds[packing].append(contestant.run(options.updates))
    print("| rows | fill | real tokens/s | ratio |\n|---|---:|---:|---:|")
    unpacked = statistics.median(speeds[False])
    for packing, measured in speeds.items():
        speed, name = statistics.median(measured), "packed" if packing else "one pair"
        print(
            f"| {name} | {contestants[packing].fill:.3f} | {speed:,.0f} | {speed / unpacked:.2f} |"
        )


class Contestant:
    """Training on rows of one kind."""

    def __init__(self, options: Any, packing: bool) -> None:
        """Start from fresh weights."""
        store = Store(options.store)
        model = ModelConfig(preset=f"bert-{options.size}", dtype=options.dtype)
        config = RunConfig(
            run_dir="-",
            data=DataConfig(store=str(options.store), packing=packing),
            model=model.with_vocabulary(store.tokenizer.vocab_size),
            phases=(Phase(options.length, 1000, options.batch),),
        )
        self.partitioner = Partitioner(devices())
        self.state, self.step = initial_state_and_step(config, self.partitioner)
        self.batches = PretrainingData(store, config).batches(0, 1000)
        self.real = self.total = 0

    @property
    def fill(self) -> float:
        """Return the fraction of the rows so far that is not padding."""
        return self.real / self.total

    def run(self, updates: int) -> float:
        """Run updates and return the real tokens per second."""
        batches = [next(self.batches).arrays for _ in range(updates)]
        sharded = [self.partitioner.shard_batch(arrays) for arrays in batches]
        started = time.perf_counter()
        for batch in sharded:
            self.state, metrics = self.step(self.state, batch)
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - started
        real = sum(int((arrays["segment_ids"] > 0).sum()) for arrays in batches)
        self.real += real
        self.total += sum(arrays["segment_ids"].size for arrays in batches)
        return real / seconds


if __name__ == "__main__":
    main()
