"""Fine-tuning on the small labeled files of every task."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.finetuning import finetune
from pipelines.settings import command_parser, read_config
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS
from support.commands import ROOT
from support.task_files.task_files import TaskFiles

MODEL = ROOT / "tests/golden/hugging_face"
# Task -> its files.
FILES: dict[str, TaskFiles] = {
    task: import_module(f"support.task_files.{task.replace('-', '_')}").FILES for task in TASKS
}


def options(task: str, folder: Path, run: Path, **more: object) -> list[str]:
    files = FILES[task]
    values = {
        "init": MODEL,
        "run_dir": run,
        "data.train": files.write(folder / f"train.{files.suffix}", 64, 0),
        "data.validation": files.write(folder / f"validation.{files.suffix}", 33, 1),
        "data.length": 16,
        "model.dtype": "float32",
        "optimizer.learning_rate": 5e-3,
        "model.hidden_dropout": 0.0,
        "model.attention_dropout": 0.0,
        "train.epochs": 8,
        "train.batch_size": 12,
        "checkpoint.every": 7,
        "checkpoint.keep": 2,
    } | {key.replace("__", "."): value for key, value in more.items()}
    return [
        "finetune",
        task,
        *(str(w) for key, value in values.items() for w in (f"--{key}", value)),
    ]


def run(words: list[str]) -> dict[str, Any]:
    """Run ``bert-jax finetune`` in this process."""
    name, *rest = words[1:]
    parser = command_parser(f"finetune {name}", "")
    config = replace(read_config(parser, rest, FinetuneConfig)[0], task=name)
    return finetune(config, Partitioner(devices()[:1]))
