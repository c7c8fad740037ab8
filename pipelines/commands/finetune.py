"""``bert-jax finetune TASK``: train a model on a task; run it again to resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax

from bert_jax.runtime import distributed
from bert_jax.runtime.console import be_quiet
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.training.partitioner import Partitioner
from pipelines.finetuning import finetune, finetune_seeds
from pipelines.help import example, finetune_example
from pipelines.settings import Count, command_parser, read_config
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS, open_task

_USAGE = (
    "usage: bert-jax finetune TASK --init MODEL --data.train FILE --run-dir RUN [options]\n"
    "\nbert-jax finetune TASK --help lists the options\n\ntasks:\n"
    + "\n".join(f"  {name:16}{task.summary}" for name, task in TASKS.items())
    + f"\n\n{example('finetune')}"
)


def main(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE)  # noqa: T201
        if argv:
            return
        raise BadArgumentsError(f"give a task: {', '.join(TASKS)}")
    config, seeds = _config(*argv)
    distributed.enable_compilation_cache()
    partitioner = Partitioner.of(config.parallel, distributed.join())
    if jax.process_index():
        be_quiet()
    if seeds == 1:
        finetune(config, partitioner)
    else:
        finetune_seeds(config, partitioner, seeds)


def _config(task: str, *argv: str) -> tuple[FinetuneConfig, int]:
    if task.startswith("-"):
        raise BadArgumentsError(f"the task comes first: bert-jax finetune TASK {task} …")
    open_task(task)
    parser = command_parser(
        f"finetune {task}",
        f"Train a model on {task}. Run it again to resume.",
        finetune_example(task, TASKS[task].example_file),
    )
    parser.add_argument(
        "--seeds",
        type=Count,
        default=1,
        metavar="N",
        help="train N times, in run_dir/seed-…, and report mean and deviation of the metrics",
    )
    config, others = read_config(parser, argv, FinetuneConfig)
    if config.task not in ("", task):
        raise BadInputError(
            f"the config is for {config.task}, not for {task}; run bert-jax finetune {config.task}"
        )
    if others["seeds"] > 1 and not config.data.validation:
        raise BadArgumentsError("--seeds needs validation data; set --data.validation FILE")
    return replace(config, task=task), others["seeds"]
