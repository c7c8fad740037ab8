"""Compare what one machine learns in a number of minutes: two starts of bert-jax, and transformers.

    python benchmarks/task_data.py ../shared/data TASKS       # or files of your own
    python benchmarks/time_to_quality.py STORE TASKS --minutes 20 --size mini --length 64 --batch 64

Every side trains in a process of its own, one after the other: ``corpus`` (bert-jax with
``model.initialization: corpus``), ``normal`` (bert-jax with its AdamW recipe) and ``transformers``
(BertForPreTraining, compiled, on the same batches in the same order, with the same AdamW; modified
to score the predicted positions only, as bert-jax does). The minutes contain everything but the
start of Python: counting, compilation, updates. A short trial measures the speed, and the learning
rate schedule spans the updates that fit. ``--set SIDE.KEY=VALUE`` changes a setting of one side
(`Recipe`), so that each can have its best ones.

Then ``bert-jax evaluate`` measures the held-out loss of each encoder, and ``bert-jax finetune``
fine-tunes it on the ``--names`` tasks, with several seeds, and scores it on the test parts:
accuracy of classes, F1 of entities. Prints a table of means ± standard deviations over all runs of
a side, and writes every figure to OUT/results.jsonl. Needs the extra ``parity``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import DataConfig, OptimizerConfig, Phase, RunConfig, TrainConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.metrics import read
from bert_jax.training.optimizers import learning_rate
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.export import export
from pipelines.pretraining import pretrain

WARM_UP, TIMED = 5, 25  # updates of the trial before the timing, and timed
BERT_JAX = [sys.executable, "-m", "pipelines.commands.cli"]
SIDES = ("corpus", "normal", "transformers")
FILES = {"wikiann": ("tagging", "train.conll", "test.conll", "entity_f1")}  # others: classification


@dataclass(frozen=True)
class Recipe:
    """The settings of a side.

    Attributes:
        learning_rate: Peak.
        warm_up: Fraction of all updates.
        initializer_range: Of random values; not for the side "corpus".
        mlm_probability: Fraction of the tokens that is predicted.
        dropout: Of hidden values and attention.
        short_rows: Fraction of the minutes that comes first, with rows of half the length.
    """

    learning_rate: float = 1e-3
    warm_up: float = 0.06
    initializer_range: float = 0.02
    mlm_probability: float = 0.15
    dropout: float = 0.0
    short_rows: float = 0.0


def main() -> None:
    """Train and score all sides, or train one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--names", nargs="+", default=["polarity", "subjectivity", "trec", "qnli"])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--size", default="base")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--set", nargs="+", default=[], metavar="SIDE.KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=1, help="of pre-training")
    parser.add_argument("--finetune-seeds", type=int, default=3)
    parser.add_argument("--epochs", default="3", help="of fine-tuning")
    parser.add_argument("--finetune-length", default="64")
    parser.add_argument("--finetune-learning-rate", default="3e-4")
    parser.add_argument("--out", type=Path, default=Path("runs/time-to-quality"))
    parser.add_argument("--train", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # The memory of a GPU is shared with PyTorch and with fine-tuning.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.train:
        train = train_in_pytorch if options.train == "transformers" else train_here
        train(options, folder_of(options, options.train, options.seed))
        return
    columns = ["updates", "held-out MLM loss", *options.names, "mean"]
    print(f"| side | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}", flush=True)
    for side in options.sides:
        results = [result_of(options, side, seed) for seed in range(options.seeds)]
        print(f"| {side} | {' | '.join(cells(results, options.names))} |", flush=True)


def result_of(options: Any, side: str, seed: int) -> dict[str, Any]:
    """Train a side in its own process and score it; return all figures."""
    folder = folder_of(options, side, seed)
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, *sys.argv, "--train", side, "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run = folder / "run"
    command = [*BERT_JAX, "evaluate", str(run), "--store", str(options.store), "--json"]
    command += ["--length", str(options.length)]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    evaluated = json.loads(output.stdout)
    scores = {
        name: [score_of(options, run, name, number) for number in range(options.finetune_seeds)]
        for name in options.names
    }
    result = json.loads((folder / "result.json").read_text("utf-8")) | {
        "side": side, "seed": seed, "mlm_loss": evaluated["mlm_loss"], "scores": scores,
    }  # fmt: skip
    with (options.out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def cells(results: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the columns of a side: means ± standard deviations over all its runs."""

    def cell(values: Sequence[float], digits: int) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):,.{digits}f}{spread}"

    of_task = [[100 * score for r in results for score in r["scores"][name]] for name in names]
    means = [statistics.mean(values) for values in zip(*of_task, strict=True)]
    return [
        cell([result["updates"] for result in results], 0),
        cell([result["mlm_loss"] for result in results], 3),
        *(cell(values, 1) for values in [*of_task, means]),
    ]


def folder_of(options: Any, side: str, seed: int) -> Path:
    """Return the folder of a side: ``run`` is its model, ``result.json`` its figures."""
    return options.out / f"{side}-{seed}"


def recipe_of(options: Any, side: str) -> Recipe:
    """Return the settings of a side."""
    recipe, known = Recipe(), {field.name for field in fields(Recipe)}
    for setting in options.set:
        name, _, value = setting.partition("=")
        of, _, key = name.partition(".")
        if of not in SIDES or key not in known:
            raise SystemExit(f"--set {setting}: SIDE is one of {SIDES}, KEY one of {sorted(known)}")
        if of == side:
            recipe = replace(recipe, **{key: float(value)})
    return recipe


def config_of(options: Any, side: str, run: Path, phases: Sequence[Phase]) -> RunConfig:
    """Return the config of a side; that of transformers describes its batches and its schedule."""
    recipe = recipe_of(options, side)
    updates = sum(phase.steps for phase in phases)
    model = ModelConfig(
        preset=f"bert-{options.size}",
        dtype=options.dtype,
        hidden_dropout=recipe.dropout,
        attention_dropout=recipe.dropout,
    )
    if side == "corpus":
        model = replace(model, initialization="corpus")
    else:
        model = replace(model, initializer_range=recipe.initializer_range)
    return RunConfig(
        run_dir=str(run),
        seed=options.seed,
        data=DataConfig(store=str(options.store), mlm_probability=recipe.mlm_probability),
        model=model,
        optimizer=OptimizerConfig(
            learning_rate=recipe.learning_rate, warmup_steps=round(recipe.warm_up * updates)
        ),
        train=TrainConfig(eval_every=0, log_every=TIMED),
        phases=tuple(phases),
    )


def train_for_minutes(
    options: Any, folder: Path, train: Callable[[Path, Sequence[Phase]], tuple[float, float]]
) -> None:
    """Train as many updates as fit, and write ``result.json``.

    Args:
        options: Of the command.
        folder: Of the side.
        train: (folder, phases) -> seconds before the first update is done, and per update.
    """
    short = recipe_of(options, options.train).short_rows
    fractions = {options.length // 2: short, options.length: 1 - short}
    trials = {
        length: train(folder / f"trial-{length}", [Phase(length, WARM_UP + TIMED, options.batch)])
        for length, fraction in fractions.items()
        if fraction
    }
    left = 60 * options.minutes - sum(before for before, _ in trials.values())
    phases = [
        Phase(
            length,
            max(WARM_UP + TIMED, round(fractions[length] * left / per_update)),
            options.batch,
        )
        for length, (_, per_update) in trials.items()
    ]
    started = time.perf_counter()
    train(folder / "run", phases)
    result = {
        "updates": sum(phase.steps for phase in phases),
        "seconds": time.perf_counter() - started,
        "tokens": sum(phase.steps * phase.length for phase in phases) * options.batch,
    }
    (folder / "result.json").write_text(json.dumps(result), "utf-8")


def train_here(options: Any, folder: Path) -> None:
    """Train with bert-jax."""

    def train(run: Path, phases: Sequence[Phase]) -> tuple[float, float]:
        times = [time.perf_counter()]
        config = config_of(options, options.train, run, phases)
        pretrain(config, Partitioner(devices()), lambda step: times.append(time.perf_counter()))
        *_, last = [line for line in read(run) if "seconds" in line]
        return times[1] - times[0], last["seconds"] / last["step"]

    train_for_minutes(options, folder, train)


def train_in_pytorch(options: Any, folder: Path) -> None:
    """Train with transformers, compiled, in the same precision."""
    import torch
    from finetune_torch import groups
    from pretraining_torch import DEVICE, losses, network

    store = Store(options.store)
    recipe = recipe_of(options, "transformers")

    def train(run: Path, phases: Sequence[Phase]) -> tuple[float, float]:
        started = time.perf_counter()
        torch.manual_seed(options.seed)
        vocabulary = store.tokenizer.vocab_size
        model = network(
            options.size, vocabulary, store.tokenizer.pad_id,
            dropout=recipe.dropout, initializer_range=recipe.initializer_range,
        )  # fmt: skip
        optimizer = torch.optim.AdamW(groups(model), lr=1.0, eps=1e-6, fused=True)
        ours = config_of(options, "transformers", run, phases)
        updates = sum(phase.steps for phase in phases)
        rates = np.asarray(
            jax.vmap(learning_rate(ours.optimizer, updates))(np.arange(1.0 * updates))
        )
        compiled = torch.compile(losses, dynamic=False)  # once per length
        times = []
        for number, batch in enumerate(PretrainingData(store, ours).batches(0, updates)):
            tensors = {n: torch.tensor(a).to(DEVICE) for n, a in batch.arrays.items()}
            for group in optimizer.param_groups:
                group["lr"] = float(rates[number])
            with torch.autocast(DEVICE, torch.bfloat16, enabled=options.dtype == "bfloat16"):
                mlm, nsp = compiled(model, tensors)
            optimizer.zero_grad()
            (mlm + nsp).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if number in (0, WARM_UP - 1, updates - 1):
                mlm.item()  # wait for the device
                times.append(time.perf_counter())
        model.save_pretrained(run)
        export(store.tokenizer, run, 512)
        return times[0] - started, (times[-1] - times[1]) / (updates - WARM_UP)

    train_for_minutes(options, folder, train)


def score_of(options: Any, model: Path, name: str, seed: int) -> float:
    """Return the score on the test part of a task after fine-tuning."""
    kind, train, test, metric = FILES.get(
        name, ("classification", "train.csv", "test.csv", "accuracy")
    )
    run, data = model.parent / f"{name}-{seed}", options.tasks / name
    command = [*BERT_JAX, "finetune", kind, "--init", str(model), "--run-dir", str(run)]
    command += ["--data.train", str(data / train), "--data.validation", str(data / test)]
    command += ["--seed", str(seed), "--model.dtype", options.dtype]
    command += ["--train.epochs", options.epochs, "--data.length", options.finetune_length]
    command += ["--optimizer.learning_rate", options.finetune_learning_rate]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((run / "eval_results.json").read_text("utf-8"))[metric]


if __name__ == "__main__":
    main()
