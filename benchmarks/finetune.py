"""Compare fine-tuning with PyTorch: same rows, same batches, same recipe, several seeds.

    python benchmarks/task_data.py ../shared/data TASKS       # or files of your own
    python benchmarks/finetune.py MODEL TASKS --tasks polarity trec --examples 2000 --seeds 3

MODEL is a Hugging Face folder. Needs the extra ``parity``. Both sides use the rows of bert-jax's
tasks, in the order of its batches, AdamW with the same decay, clipping and learning rates, and the
same fresh head, all in float32. The default is no dropout, because its random numbers cannot be the
same on both sides. A seed determines head and order. ``--examples`` and ``--test`` set the sizes of
random samples of the training and test examples, the same for all seeds; for ranking the samples
consist of whole queries. Prints mean ± standard deviation of each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import finetune_torch
import numpy as np
import transformers

from bert_jax.config.task_head import HeadConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.counter_rng import key, shuffled
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.open import LoadedModel, open_model
from pipelines.run_folder import open_run_folder
from pipelines.tasks.config import FinetuneConfig, TaskDataConfig
from pipelines.tasks.experiment import (
    Examples,
    Validation,
    all_logits,
    finetuning,
    logits_step,
    planned,
    task_network,
)
from pipelines.tasks.ranking import PassageRanking
from pipelines.tasks.registry import TaskOptions, open_task
from pipelines.tasks.task import Columns, Task

# Folder -> task and length.
TASKS = {
    "polarity": ("classification", 64),
    "subjectivity": ("classification", 64),
    "trec": ("classification", 32),
    "trec_labels": ("multi-label", 32),
    "qnli": ("classification", 96),
    "ranking": ("classification", 96),
    "choice": ("multiple-choice", 96),
    "wnut17": ("tagging", 64),
    "wikiann": ("tagging", 64),
    "squad": ("qa", 192),
    "summaries": ("summarization", 256),
}
CANDIDATES = 10  # of a query; they stay together
ROWS = 32  # of a prediction batch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--packing", action="store_true", help="of bert-jax: several rows in one")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    print("| task | train / test | metric | bert-jax | PyTorch | difference, points |")
    print("|---|---|---|---:|---:|---:|", flush=True)
    for name in options.tasks:
        metric, sizes, ours, theirs = compare(name, options)
        points = 1 if TASKS[name][0] == "qa" else 100
        difference = points * (statistics.mean(ours) - statistics.mean(theirs))
        scores = (
            mean_and_deviation(ours, points),
            mean_and_deviation(theirs, points),
            f"{difference:+.2f}",
        )
        print(f"| {' | '.join((name, sizes, metric, *scores))} |", flush=True)


@dataclass(frozen=True)
class Case:
    """A task with its data and the initial model."""

    task: Task
    classes: list[str]
    train: Examples
    test: Examples
    tokenizer: Tokenizer
    partitioner: Partitioner
    model: LoadedModel


def compare(name: str, options: Any) -> tuple[str, str, list[float], list[float]]:
    """Return metric, sizes, and the scores of both sides over the seeds."""
    case = open_case(name, options)
    examples = case.test.examples
    metric = case.task.best_metric
    scores: tuple[list[float], list[float]] = ([], [])
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            config = make_config(f"{folder}/run", name, seed, options, case)
            for side, run in zip(scores, (train_here, train_in_pytorch), strict=True):
                started = time.perf_counter()
                logits = run(config, case)
                records = case.task.predict(examples, case.test.features, logits, case.classes)
                side.append(case.task.score(examples, records, case.classes)[metric])
                seconds = time.perf_counter() - started
                note = f"{name} {seed} {run.__name__} {side[-1]:.4f} {seconds:.0f} s"
                print(f"<!-- {note} -->", flush=True)
    return metric, f"{len(case.train.examples)} / {len(examples)}", *scores


def open_case(name: str, options: Any) -> Case:
    """Return the task with its rows."""
    kind, length = TASKS[name]
    partitioner = Partitioner(devices()[:1])
    model = open_model(options.model, partitioner)
    tokenizer = model.tokenizer()
    task = PassageRanking() if name == "ranking" else open_task(kind, TaskOptions(stride=64))
    paths = [str(*(options.folder / name).glob(f"{split}.*")) for split in ("train", "test")]
    examples = [task.read(path, Columns(), labeled=True) for path in paths]
    classes = list(task.classes(examples[0]))
    together = CANDIDATES if name == "ranking" else 1
    sizes = (options.examples, options.test)
    sets = [sample(whole, most, together) for whole, most in zip(examples, sizes, strict=True)]
    features = [Examples(s, task.features(s, tokenizer, length, classes)) for s in sets]
    return Case(task, classes, *features, tokenizer, partitioner, model)


def sample(examples: Sequence[Any], most: int, together: int) -> list[Any]:
    """Return at most `most` examples, in a random order of groups of neighbors."""
    groups = shuffled(key(0)[()], len(examples) // together)[: most // together]
    return [examples[number * together + n] for number in groups for n in range(together)]


def make_config(run_dir: str, name: str, seed: int, options: Any, case: Case) -> FinetuneConfig:
    """Return the recipe."""
    kind, length = TASKS[name]
    rate = options.dropout
    config = FinetuneConfig(
        run_dir=run_dir,
        init=str(options.model),
        task=kind,
        seed=seed,
        data=TaskDataConfig(train="in memory", length=length, packing=options.packing),
        model=replace(case.model.network, hidden_dropout=rate, attention_dropout=rate),
        # BertForQuestionAnswering has no dropout before its head.
        head=HeadConfig(dropout=0.0 if kind == "qa" else rate),
    )
    config = replace(
        config,
        optimizer=replace(config.optimizer, learning_rate=options.learning_rate),
        train=replace(config.train, epochs=options.epochs, log_every=1000),
        checkpoint=replace(config.checkpoint, every=10**6),
    )
    return planned(config, len(case.train.features.examples))


def train_here(config: FinetuneConfig, case: Case) -> np.ndarray:
    """Return the logits of the test rows after training with bert-jax."""
    task, classes, partitioner, tokenizer = (
        case.task,
        case.classes,
        case.partitioner,
        case.tokenizer,
    )
    run = logits_step(task_network(config, len(classes)), partitioner)
    nothing = Validation(None, task, classes, run, partitioner)
    packing = config.data.packing
    work = finetuning(
        config, task, classes, case.train, nothing, tokenizer, partitioner, case.model.weights
    )
    with open_run_folder(config.run_dir) as folder:
        params = folder.train(work, partitioner, tokenizer)
    return all_logits(run, params, case.test.features, ROWS, partitioner, packing)


def train_in_pytorch(config: FinetuneConfig, case: Case) -> np.ndarray:
    """Return the logits of the test rows after training with PyTorch."""
    head = task_network(config, len(case.classes)).init_params(config.seed)["head"]
    rate = config.model.hidden_dropout
    network = finetune_torch.open_network(config.task, case.model.path, head, rate)
    finetune_torch.train(network, config, case.train.features)
    return finetune_torch.predict(config.task, network, case.test.features, ROWS)


def mean_and_deviation(values: Sequence[float], points: float) -> str:
    """Format mean and standard deviation in points."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{points * statistics.mean(values):.2f} ± {points * deviation:.2f}"


if __name__ == "__main__":
    main()
