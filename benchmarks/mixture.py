"""Compare the speed of the loader on a mixture of three stores and on one store of the same text.

    python benchmarks/mixture.py TEXT --tokenizer DIR [--turns 5] [--seconds 4]

TEXT is a plain file with a blank line between documents; its documents are dealt to three stores.
Both loaders make batches of 256 rows alternately, in one process, from a new epoch on in each turn,
so its plan counts. The speed is in tokens without padding per second of CPU time, so that other
work on the machine counts little. Prints a Markdown table of the medians over the turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import DataConfig, Phase, RunConfig
from bert_jax.config.stores import MixedStore
from pipelines.data.batches.loader import PhaseBatches, PretrainingData
from pipelines.data.batches.mixture import MixedData
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store

FRACTIONS = (0.5, 0.3, 0.2)
_IN_A_ROW = 8  # batches of one loader before the other's turn


def build(text: Path, tokenizer: Path, folder: Path) -> list[Path]:
    """Prepare the whole text, then its documents in three parts as large as their fractions."""
    documents = text.read_text("utf-8").split("\n\n")
    starts = [round(sum(FRACTIONS[:n]) * len(documents)) for n in range(len(FRACTIONS) + 1)]
    stores = []
    for number, (start, end) in enumerate([(0, len(documents)), *pairwise(starts)]):
        part = folder / f"{number}.txt"
        part.write_text("\n\n".join(documents[start:end]) + "\n", "utf-8")
        prepare([f"text:{part}"], tokenizer, folder / f"store-{number}", 0.0)
        stores.append(folder / f"store-{number}")
    return stores


def loaders(stores: list[Path], length: int, packing: bool) -> tuple[PhaseBatches, PhaseBatches]:
    """Return the loader of the first store and that of the mixture of the others."""

    def config(data: DataConfig) -> RunConfig:
        model = ModelConfig(max_positions=length)
        return RunConfig(run_dir="-", data=data, model=model, phases=(Phase(length, 1 << 30, 256),))

    entries = tuple(MixedStore(str(x), f) for x, f in zip(stores[1:], FRACTIONS, strict=True))
    mixed = config(DataConfig(stores=entries, packing=packing))
    one = config(DataConfig(store=str(stores[0]), packing=packing))
    parts = [Store(path) for path in stores[1:]]
    return PretrainingData(Store(stores[0]), one), MixedData(parts, mixed)


def speeds(pair: tuple[PhaseBatches, PhaseBatches], first: int, seconds: float) -> list[float]:
    """Return tokens per CPU second of both, which make a few batches in turns from `first` on."""
    tokens, spent, step = [0, 0], [0.0, 0.0], first
    while min(spent) < seconds:
        for number, data in enumerate(pair):
            started = time.process_time()
            tokens[number] += sum(data.batch_at(step + n).tokens for n in range(_IN_A_ROW))
            spent[number] += time.process_time() - started
        step += _IN_A_ROW
    return [count / elapsed for count, elapsed in zip(tokens, spent, strict=True)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stores = build(options.text, options.tokenizer, Path(folder))
        print("| length | one store | mixture of 3 | ratio (lowest, highest) |")
        print("|---:|---:|---:|---|")
        for length, packing in ((512, False), (128, False), (512, True), (128, True)):
            pair = loaders(stores, length, packing)
            speeds(pair, 0, 0.1)  # with the first plans
            measured = [
                speeds(pair, 1 + turn * 100_000, options.seconds) for turn in range(options.turns)
            ]
            ratios = sorted(mixed / one for one, mixed in measured)
            one, mixed = (statistics.median(x) / 1e6 for x in zip(*measured, strict=True))
            print(
                f"| {length}{', packing' if packing else ''} | {one:.1f} M | {mixed:.1f} M |"
                f" {statistics.median(ratios):.2f} ({ratios[0]:.2f}, {ratios[-1]:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
