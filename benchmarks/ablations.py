"""Measure the benefit of each part of BERT: the runs of configs/ablations, on held-out text.

    bert-jax train-tokenizer --corpus text:wiki.txt --vocab-size 8000 --out TOKENIZER
    bert-jax prepare --corpus text:wiki.txt --tokenizer TOKENIZER --out STORE
    python benchmarks/ablations.py STORE [RUNS]

Trains missing runs (ten to twenty minutes each on two cores), evaluates every run on the same
masked tokens of held-out pairs, and times the updates of all runs in turns, in one process, at the
length of the last phase. The column "batches" is the objective of the training.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
from pretraining import initial_state_and_step

from bert_jax.config.run import RunConfig
from bert_jax.runtime import distributed
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import parameter_count
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.models.evaluate import evaluate
from pipelines.models.open import open_model
from pipelines.settings import run_config

CONFIGS = Path(__file__).parents[1] / "configs/ablations"
NAMES = ("bert", "no_nsp", "left_to_right", "lstm")
ROUNDS, UPDATES = 7, 20


def main(store: Path, runs: Path) -> None:
    """Print the table."""
    partitioner = Partitioner(distributed.devices())
    rows, configs, metrics = {}, {}, {}
    for name in NAMES:
        command = ["--config", str(CONFIGS / f"{name}.yaml"), "--data.store", str(store)]
        command += ["--run-dir", str(runs / name)]
        subprocess.run(["bert-jax", "pretrain", *command], check=True)
        model = open_model(runs / name, partitioner)
        config = replace(run_config(command), model=model.network)
        metrics = evaluate(replace(model, run=config), Store(store))
        nsp = "-" if metrics["nsp_accuracy"] is None else f"{metrics['nsp_accuracy']:.3f}"
        rows[name] = (
            f"| {name} | {config.data.objective} | {parameter_count(model.weights.params):,}"
            f" | {metrics['mlm_accuracy']:.4f} | {metrics['mlm_loss']:.3f}"
            f" | {metrics['perplexity']:.0f} | {nsp}"
        )
        configs[name] = config
    seconds = time_updates(configs, Store(store), partitioner)
    columns = ("parameters", "MLM accuracy", "MLM loss", "perplexity", "NSP accuracy", "time")
    print(f"| run | batches | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}")
    for name, row in rows.items():
        print(f"{row} | {seconds[name] / seconds['bert']:.2f} |")
    accuracy, entropy = metrics["constant_guess_accuracy"], metrics["unigram_entropy"]
    print(f"\nAccuracy of always predicting the most frequent token: {accuracy:.4f};", end=" ")
    print(f"entropy of the token frequencies: {entropy:.3f}.")


def time_updates(
    configs: dict[str, RunConfig], store: Store, partitioner: Partitioner
) -> dict[str, float]:
    """Return the median seconds of UPDATES updates."""
    runners = {
        name: compiled_runner(config, store, partitioner) for name, config in configs.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(ROUNDS):
        for name, run in runners.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compiled_runner(
    config: RunConfig, store: Store, partitioner: Partitioner
) -> Callable[[], None]:
    """Return a compiled function that runs UPDATES updates on one batch."""
    state, update = initial_state_and_step(config, partitioner)
    batch = partitioner.shard_batch(
        PretrainingData(store, config).batch_at(config.steps - 1).arrays
    )

    def run() -> None:
        nonlocal state
        for _ in range(UPDATES):
            state, _ = update(state, batch)
        jax.block_until_ready(state)

    run()
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs/ablations"))
    options = parser.parse_args()
    main(options.store, options.runs)
