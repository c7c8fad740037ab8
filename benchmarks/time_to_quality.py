"""Compare what one device learns in a number of minutes with transformers, from the same text.

    python benchmarks/time_to_quality.py STORE TASKS --minutes 20 --size base --batch 256

Both sides use the same batches of the store in the same order, the same AdamW, and as many updates
as fit into the minutes at the speed of their first updates, without compilation; the learning rate
schedule spans these updates. Then ``bert-jax finetune`` fine-tunes both encoders on the ``--names``
tasks of benchmarks/task_data.py and scores them on the test parts. Needs the extra ``parity``. The
model of transformers is compiled, and modified to score the predicted positions only, as bert-jax
does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from finetune_torch import groups
from pretraining import initial_state_and_step
from pretraining_torch import DEVICE, losses, network

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import DataConfig, OptimizerConfig, Phase, RunConfig
from bert_jax.nn.tensor_names import ModelWeights
from bert_jax.runtime.distributed import devices
from bert_jax.training.optimizers import learning_rate
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.export import export
from pipelines.models.formats.hugging_face import write

WARM_UP, TIMED = 3, 10  # updates before the timing, and timed
LR_WARMUP = 0.06  # fraction of all updates


def main() -> None:
    """Train both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--names", nargs="+", default=["polarity", "subjectivity", "qnli"])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--size", default="base")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--epochs", default="3")
    parser.add_argument("--out", type=Path, default=Path("runs/time-to-quality"))
    options = parser.parse_args()
    # The memory of a GPU is shared with PyTorch and with fine-tuning.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    print("| encoder | updates | MLM loss at the end | " + " | ".join(options.names) + " |")
    print("|---|---:|---:|" + "---:|" * len(options.names), flush=True)
    for name, train in (("bert-jax", train_here), ("transformers, modified", train_in_pytorch)):
        folder = options.out / name.split(",")[0]
        shutil.rmtree(folder, ignore_errors=True)
        updates, loss = train(options, folder)
        scores = [f"{accuracy_of(options, folder, task):.4f}" for task in options.names]
        print(f"| {name} | {updates:,} | {loss:.3f} | {' | '.join(scores)} |", flush=True)


Run = Callable[[int], float]  # runs a number of updates; returns the MLM loss of the last


def run_for_minutes(options: Any, prepare: Callable[[int], Run]) -> tuple[int, float]:
    """Run for the minutes; return updates and loss. `prepare` receives the number of updates."""
    trial = prepare(WARM_UP + TIMED)
    trial(WARM_UP)
    started = time.perf_counter()
    trial(TIMED)
    per_update = (time.perf_counter() - started) / TIMED
    updates = max(TIMED, round(60 * options.minutes / per_update))
    return updates, prepare(updates)(updates)


def make_config(options: Any, updates: int) -> RunConfig:
    """Return the config of both sides."""
    store = Store(options.store)
    model = ModelConfig(preset=f"bert-{options.size}", dtype=options.dtype)
    return RunConfig(
        run_dir="-",
        data=DataConfig(store=str(options.store)),
        model=model.with_vocabulary(store.tokenizer.vocab_size),
        optimizer=OptimizerConfig(
            learning_rate=options.learning_rate, warmup_steps=round(LR_WARMUP * updates)
        ),
        phases=(Phase(options.length, updates, options.batch),),
    )


def train_here(options: Any, folder: Path) -> tuple[int, float]:
    """Train with bert-jax."""
    partitioner, store = Partitioner(devices()), Store(options.store)
    trained: dict[str, Any] = {}

    def prepare(updates: int) -> Run:
        config = make_config(options, updates)
        state, step = initial_state_and_step(config, partitioner)
        batches = PretrainingData(store, config).batches(0, updates)

        def run(count: int) -> float:
            nonlocal state
            for _ in range(count):
                state, metrics = step(state, partitioner.shard_batch(next(batches).arrays))
            trained.update(params=state.params, config=config.model)
            return float(metrics["mlm_loss"])

        return run

    result = run_for_minutes(options, prepare)
    folder.mkdir(parents=True)
    params = jax.device_get(trained["params"])
    weights = ModelWeights(params, trained["config"], "BertForPreTraining")
    write(folder, weights, store.tokenizer.pad_id)
    export(store.tokenizer, folder, trained["config"].max_positions)
    return result


def train_in_pytorch(options: Any, folder: Path) -> tuple[int, float]:
    """Train with transformers, compiled, in the same precision."""
    store = Store(options.store)
    trained: dict[str, Any] = {}

    def prepare(updates: int) -> Run:
        torch.manual_seed(0)
        model = network(options.size, store.tokenizer.vocab_size, store.tokenizer.pad_id)
        optimizer = torch.optim.AdamW(groups(model), lr=1.0, eps=1e-6, fused=True)
        ours = make_config(options, updates)
        rates = np.asarray(
            jax.vmap(learning_rate(ours.optimizer, updates))(np.arange(1.0 * updates))
        )
        batches = enumerate(PretrainingData(store, ours).batches(0, updates))
        compiled = torch.compile(losses)
        trained["model"] = model

        def run(count: int) -> float:
            for _ in range(count):
                number, batch = next(batches)
                tensors = {n: torch.tensor(a).to(DEVICE) for n, a in batch.arrays.items()}
                for group in optimizer.param_groups:
                    group["lr"] = float(rates[number])
                with torch.autocast(DEVICE, torch.bfloat16, enabled=options.dtype == "bfloat16"):
                    mlm, nsp = compiled(model, tensors)
                optimizer.zero_grad()
                (mlm + nsp).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            return float(mlm)

        return run

    result = run_for_minutes(options, prepare)
    trained["model"].save_pretrained(folder)
    export(store.tokenizer, folder, 512)
    return result


def accuracy_of(options: Any, encoder: Path, task: str) -> float:
    """Return the accuracy on the test part after fine-tuning."""
    run, data = encoder.parent / f"{encoder.name}-{task}", options.tasks / task
    shutil.rmtree(run, ignore_errors=True)
    command = ["bert-jax", "finetune", "classification", "--init", str(encoder)]
    command += ["--run-dir", str(run), "--data.train", str(data / "train.csv")]
    command += ["--data.validation", str(data / "test.csv"), "--data.length", "96"]
    command += ["--train.epochs", options.epochs, "--model.dtype", options.dtype]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((run / "eval_results.json").read_text("utf-8"))["accuracy"]


if __name__ == "__main__":
    main()
