"""The reader of whole run folders: the report command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Imported early: Matplotlib reads caches in the home folder, which a monitored reader must not.
import pipelines.reports.page  # noqa: F401
from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.sessions import SessionLog
from pipelines.folders import RUN_RESULTS
from pipelines.reports.write import write
from pipelines.settings import to_yaml
from pipelines.tasks.config import FinetuneConfig, TaskDataConfig
from pipelines.tasks.experiment import write_records
from pipelines.tasks.registry import open_task
from pipelines.tasks.reporting import DATA, SAMPLES, facts, samples
from pipelines.tasks.task import Columns, Features
from tools.drill.observed import Reader
from tools.drill.readers_tpu import make_status_files

_STEPS = 4


def make_run(folder: Path) -> None:
    """Write a pre-training run on a preempted slice, without checkpoints."""
    make_status_files(folder)
    config = RunConfig(run_dir="run", phases=(Phase(length=32, steps=_STEPS, batch_size=4),))
    (folder / "config.yaml").write_text(to_yaml(config), "utf-8")
    _write_metrics(folder, {"eval_mlm_loss": 3.5, "eval_perplexity": 33.1})


def make_finetuned(folder: Path) -> None:
    """Write a fine-tuning run."""
    config = FinetuneConfig(run_dir="run", data=TaskDataConfig("train.csv", "dev.csv"))
    (folder / "config.yaml").write_text(to_yaml(config), "utf-8")
    _write_metrics(folder, {"eval_accuracy": 0.5})
    confusion = {"classes": ["sad", "glad"], "true_by_predicted": [[1, 1], [0, 2]]}
    types = {"PER": {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "examples": 4}}
    results = {"accuracy": 0.5, "confusion": confusion, "types": types}
    (folder / RUN_RESULTS).write_text(json.dumps(results), "utf-8")
    words = [f"It is {'so ' * n}sad,sad" for n in range(4)] + ["Good,glad"]
    (folder / "train.csv").write_text("\n".join(["text,label", *words]), "utf-8")
    task = open_task("classification")
    examples = task.read(str(folder / "train.csv"), Columns(), labeled=True)
    (folder / "train.csv").unlink()
    lengths = np.array([5, 6, 7, 8, 3])
    statistics = facts(task, examples, Features({}, np.arange(5), lengths), 6)
    data = {"length": 6, "train": statistics, "validation": statistics}
    (folder / DATA).write_text(json.dumps(data), "utf-8")
    predicted = {"label": "glad", "probabilities": {"sad": 0.25, "glad": 0.75}}
    write_records(samples(task, examples, [predicted] * 5), folder / SAMPLES)


def _write_metrics(folder: Path, held_out: dict[str, float]) -> None:
    lines = [
        {"step": step, "loss": 3.0 / step, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens": step,
         "tokens_per_second": 9.5, "mfu": None, "seconds": step / 2}
        for step in range(1, _STEPS + 1)
    ]  # fmt: skip
    lines += [{"step": _STEPS, **held_out}]
    log = SessionLog(folder, 0, 0.0, [])
    log.stop(_STEPS)
    log.close(_STEPS)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines), "utf-8")


def read_run(folder: Path) -> None:
    write([folder], folder / "report.html")


REPORT_READERS: Sequence[Reader] = (
    Reader("report of a run", make_run, read_run, ("*.*", "**/*.json")),
    Reader("report of a fine-tuning", make_finetuned, read_run, ("*.*",)),
)
