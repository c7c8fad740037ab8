"""Fine-tuning here and in PyTorch: same rows, same batches, same recipe, several seeds.

    python benchmarks/task_data.py ../shared/data TASKS       # or files of your own
    python benchmarks/finetune.py MODEL TASKS --tasks polarity trec --examples 2000 --seeds 3

MODEL is a Hugging Face folder. Needs the extra ``parity``. Both sides get the rows that our tasks
make, in the order of our batches, AdamW with the same decay, clipping and learning rates, and the
same dropout rates; the random numbers of dropout and of the new head differ. Only the first
``--examples`` training and ``--test`` test examples are used. Prints mean ± deviation of each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers

from bert_jax.optim import learning_rate
from bert_jax.parallel import Layout, devices
from pipelines.model import open_model
from pipelines.run_folder import taken, train
from pipelines.tasks.batches import TaskBatches
from pipelines.tasks.config import FinetuneConfig, TaskDataConfig
from pipelines.tasks.registry import open_task
from pipelines.tasks.task import Columns
from pipelines.tasks.work import (
    Examples,
    Validation,
    all_logits,
    finetuning,
    logits_step,
    planned,
    task_network,
)

# Folder -> task and length.
TASKS = {
    "polarity": ("classification", 64),
    "subjectivity": ("classification", 64),
    "trec": ("classification", 32),
    "qnli": ("classification", 96),
    "choice": ("multiple-choice", 96),
}
CLASSES: dict[str, Any] = {
    "classification": transformers.BertForSequenceClassification,
    "multiple-choice": transformers.BertForMultipleChoice,
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    print("| task | train / test | metric | bert-jax | PyTorch | difference, points |")
    print("|---|---|---|---:|---:|---:|", flush=True)
    for name in options.tasks:
        metric, sizes, ours, theirs = compared(name, options)
        difference = 100 * (statistics.mean(ours) - statistics.mean(theirs))
        row = (name, sizes, metric, shown(ours), shown(theirs), f"{difference:+.2f}")
        print(f"| {' | '.join(row)} |", flush=True)


def compared(name: str, options: Any) -> tuple[str, str, list[float], list[float]]:
    """Metric, sizes, and the scores of both sides over the seeds."""
    kind, length = TASKS[name]
    task, layout = open_task(kind), Layout(devices()[:1])
    model = open_model(options.model, layout)
    tokenizer = model.tokenizer()
    sets = []
    for split, most in (("train", options.examples), ("test", options.test)):
        (path,) = (options.folder / name).glob(f"{split}.*")
        sets.append(task.read(str(path), Columns(), labelled=True)[:most])
    classes = list(task.classes(sets[0]))
    features = [Examples(s, task.features(s, tokenizer, length, classes)) for s in sets]
    scores: tuple[list[float], list[float]] = ([], [])
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            config = FinetuneConfig(
                run_dir=f"{folder}/run",
                init=str(options.model),
                task=kind,
                seed=seed,
                data=TaskDataConfig(train="in memory", length=length),
                model=model.network,
            )
            config = replace(
                config,
                optimizer=replace(config.optimizer, learning_rate=options.learning_rate),
                train=replace(config.train, epochs=options.epochs, log_every=1000),
                checkpoint=replace(config.checkpoint, every=10**6),
            )
            config = planned(config, len(features[0].features.examples))
            for side, run in zip(scores, (here, there), strict=True):
                started = time.perf_counter()
                logits = run(config, task, classes, features, tokenizer, layout, model)
                records = task.predict(sets[1], features[1].features, logits, classes)
                side.append(task.score(sets[1], records, classes)[task.best])
                seconds = time.perf_counter() - started
                print(f"<!-- {name} {seed} {run.__name__} {side[-1]:.4f} {seconds:.0f} s -->")
    return task.best, f"{len(sets[0])} / {len(sets[1])}", *scores


def here(
    config: FinetuneConfig,
    task: Any,
    classes: list[str],
    features: Sequence[Examples],
    tokenizer: Any,
    layout: Layout,
    model: Any,
) -> np.ndarray:
    """Logits of the test rows after our training."""
    run = logits_step(task_network(config, task, classes), layout)
    nothing = Validation(None, task, classes, run, layout)
    work = finetuning(config, task, classes, features[0], nothing, tokenizer, layout, model)
    with taken(Path(config.run_dir)):
        params = train(work, layout, tokenizer)
    return all_logits(run, params, features[1].features, 32, layout)


def there(
    config: FinetuneConfig,
    task: Any,
    classes: list[str],
    features: Sequence[Examples],
    tokenizer: Any,
    layout: Layout,
    model: Any,
) -> np.ndarray:
    """Logits of the test rows after PyTorch's training."""
    del task, layout
    torch.manual_seed(config.seed)
    kind = CLASSES[config.task]
    count = {} if config.task == "multiple-choice" else {"num_labels": len(classes)}
    network = kind.from_pretrained(model.path, **count)
    plain = [p for n, p in network.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    known = set(map(id, plain))
    groups = [
        {"params": [p for p in network.parameters() if id(p) not in known], "weight_decay": 0.01},
        {"params": plain, "weight_decay": 0.0},
    ]
    rule = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-6)
    rates = jax.vmap(learning_rate(config.optimizer, config.steps))(np.arange(float(config.steps)))
    data = TaskBatches(
        features[0].features, config.train.batch_size, config.seed, {"t": tokenizer.digest}
    )
    network.train()
    for step in range(config.steps):
        arrays = data.batch_at(step).arrays
        for group in rule.param_groups:
            group["lr"] = float(rates[step])
        weights = torch.tensor(arrays["weights"])
        losses = torch.nn.functional.cross_entropy(
            forward(network, arrays), torch.tensor(arrays["labels"]).long(), reduction="none"
        )
        rule.zero_grad()
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
        rule.step()
    network.eval()
    found = []
    test = features[1].features.arrays
    with torch.no_grad():
        for first in range(0, len(test["token_ids"]), 32):
            part = {name: array[first : first + 32] for name, array in test.items()}
            found.append(forward(network, part).numpy())
    logits = np.concatenate(found)
    return logits[..., None] if config.task == "multiple-choice" else logits[:, None]


def forward(network: Callable[..., Any], arrays: dict[str, np.ndarray]) -> torch.Tensor:
    """Logits of a batch."""
    ids, segments, mask = (
        torch.tensor(arrays[name]).long() for name in ("token_ids", "segment_ids", "sequence_ids")
    )
    return network(input_ids=ids, token_type_ids=segments, attention_mask=mask).logits


def shown(values: Sequence[float]) -> str:
    """Mean and deviation in points."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


if __name__ == "__main__":
    main()
