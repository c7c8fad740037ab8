"""What each part of BERT is worth: the runs of configs/ablations, measured on the same pairs.

    bert-jax train-tokenizer --corpus text:wiki.txt --vocab-size 8000 --out TOKENIZER
    bert-jax prepare --corpus text:wiki.txt --tokenizer TOKENIZER --out STORE
    python benchmarks/ablations.py STORE [RUNS]

Trains what is not there yet (some ten minutes each on two cores), then evaluates every run on the
held-out pairs of BERT itself, also those that were trained on other batches.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from bert_jax import metrics, parallel
from bert_jax.state import parameter_count
from pipelines.data.store import Store
from pipelines.evaluate import measure
from pipelines.model import open_model

CONFIGS = Path(__file__).parents[1] / "configs/ablations"
NAMES = ("bert", "no_nsp", "left_to_right", "lstm")


def main(store: Path, runs: Path) -> None:
    """Prints the table."""
    layout = parallel.Layout(parallel.devices())
    print("| run | parameters | MLM accuracy | MLM loss | NSP accuracy | tokens/s in training |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in NAMES:
        config, run = CONFIGS / f"{name}.yaml", runs / name
        command = ["bert-jax", "pretrain", "--config", config, "--data.store", store]
        subprocess.run([*map(str, command), "--run_dir", str(run)], check=True)
        model = open_model(run, layout)
        assert model.run is not None
        data = replace(model.run.data, objective="nsp")
        alike = replace(model, run=replace(model.run, data=data))
        found = measure(alike, Store(store), layout)
        trained = model.run.data.objective == "nsp"
        speeds = [x["tokens_per_second"] for x in metrics.read(run) if "tokens_per_second" in x]
        nsp = f"{found['nsp_accuracy']:.3f}" if trained else "-"
        print(
            f"| {name} | {parameter_count(model.weights.params):,} | {found['mlm_accuracy']:.4f}"
            f" | {found['mlm_loss']:.3f} | {nsp} | {sorted(speeds)[len(speeds) // 2]:,.0f} |"
        )
    print(f"\nAlways the most frequent token: {found['constant_guess_accuracy']:.4f};", end=" ")
    print(f"entropy of the token frequencies: {found['unigram_entropy']:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "runs/ablations"))
