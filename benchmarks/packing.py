"""What packing is worth: real tokens per second of training, several sequences in a row or one.

    python benchmarks/packing.py STORE --size mini --length 512 --batch 8

Both are given batches of the store, and take turns. The most that packing can give is what padding
takes, which the column "fill" tells: how long the documents of a store are decides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
from pretraining import begun

from bert_jax.config.run import DataConfig, ModelConfig, Phase, RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store

WARM, STRETCHES = 2, 6


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--updates", type=int, default=3, help="of a stretch")
    options = parser.parse_args()
    both = {packing: Contestant(options, packing) for packing in (False, True)}
    for contestant in both.values():
        contestant.run(WARM)
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(STRETCHES):
        for packing, contestant in both.items():
            speeds[packing].append(contestant.run(options.updates))
    print("| rows | fill | real tokens/s | ratio |\n|---|---:|---:|---:|")
    alone = statistics.median(speeds[False])
    for packing, found in speeds.items():
        speed, name = statistics.median(found), "packed" if packing else "of one pair"
        print(f"| {name} | {both[packing].fill:.3f} | {speed:,.0f} | {speed / alone:.2f} |")


class Contestant:
    """Training on rows of one kind."""

    def __init__(self, options: Any, packing: bool) -> None:
        """Begins anew."""
        store = Store(options.store)
        model = ModelConfig(preset=f"bert-{options.size}", dtype=options.dtype)
        config = RunConfig(
            run_dir="-",
            data=DataConfig(store=str(options.store), packing=packing),
            model=model.with_vocabulary(store.tokenizer.vocab_size),
            phases=(Phase(options.length, 1000, options.batch),),
        )
        self.partitioner = Partitioner(devices())
        self.state, self.step = begun(config, self.partitioner)
        self.batches = PretrainingData(store, config).batches(0, 1000)
        self.real = self.all = 0

    @property
    def fill(self) -> float:
        """Share of the rows so far that is not padding."""
        return self.real / self.all

    def run(self, updates: int) -> float:
        """Real tokens per second of so many updates."""
        batches = [next(self.batches).arrays for _ in range(updates)]
        placed = [self.partitioner.shard_batch(arrays) for arrays in batches]
        started = time.perf_counter()
        for batch in placed:
            self.state, metrics = self.step(self.state, batch)
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - started
        real = sum(int((arrays["segment_ids"] > 0).sum()) for arrays in batches)
        self.real += real
        self.all += sum(arrays["segment_ids"].size for arrays in batches)
        return real / seconds


if __name__ == "__main__":
    main()
