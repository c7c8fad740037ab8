"""What each part of BERT is worth: the runs of configs/ablations, measured on held-out text.

    bert-jax train-tokenizer --corpus text:wiki.txt --vocab-size 8000 --out TOKENIZER
    bert-jax prepare --corpus text:wiki.txt --tokenizer TOKENIZER --out STORE
    python benchmarks/ablations.py STORE [RUNS]

Trains what is not there yet (ten to twenty minutes each on two cores), evaluates every run on
held-out batches of the kind it was trained on (pairs, or whole sentences of one document without
next sentence prediction), and times the updates of all in turns, in one process, at the length of
the last phase.
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
from pretraining import begun

from bert_jax.config.run import RunConfig
from bert_jax.runtime import distributed
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import parameter_count
from pipelines.models.evaluate import evaluate
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.models.open import open_model
from pipelines.settings import run_config

CONFIGS = Path(__file__).parents[1] / "configs/ablations"
NAMES = ("bert", "no_nsp", "left_to_right", "lstm")
ROUNDS, UPDATES = 7, 20


def main(store: Path, runs: Path) -> None:
    """Prints the table."""
    partitioner = Partitioner(distributed.devices())
    rows, configs, found = {}, {}, {}
    for name in NAMES:
        command = ["--config", str(CONFIGS / f"{name}.yaml"), "--data.store", str(store)]
        command += ["--run_dir", str(runs / name)]
        subprocess.run(["bert-jax", "pretrain", *command], check=True)
        model = open_model(runs / name, partitioner)
        config = replace(run_config(command), model=model.network)
        found = evaluate(replace(model, run=config), Store(store), partitioner)
        nsp = "-" if found["nsp_accuracy"] is None else f"{found['nsp_accuracy']:.3f}"
        rows[name] = (
            f"| {name} | {config.data.objective} | {parameter_count(model.weights.params):,}"
            f" | {found['mlm_accuracy']:.4f} | {found['mlm_loss']:.3f}"
            f" | {found['perplexity']:.0f} | {nsp}"
        )
        configs[name] = config
    seconds = timed(configs, Store(store), partitioner)
    columns = ("parameters", "MLM accuracy", "MLM loss", "perplexity", "NSP accuracy", "time")
    print(f"| run | batches | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}")
    for name, row in rows.items():
        print(f"{row} | {seconds[name] / seconds['bert']:.2f} |")
    print(f"\nAlways the most frequent token: {found['constant_guess_accuracy']:.4f};", end=" ")
    print(f"entropy of the token frequencies: {found['unigram_entropy']:.3f}")


def timed(
    configs: dict[str, RunConfig], store: Store, partitioner: Partitioner
) -> dict[str, float]:
    """Median seconds of UPDATES updates."""
    programs = {name: program(config, store, partitioner) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(ROUNDS):
        for name, run in programs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def program(config: RunConfig, store: Store, partitioner: Partitioner) -> Callable[[], None]:
    """Does UPDATES updates on one batch; compiled already."""
    state, update = begun(config, partitioner)
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
    given = parser.parse_args()
    main(given.store, given.runs)
