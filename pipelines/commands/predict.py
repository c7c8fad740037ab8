"""``bert-jax predict``: what a fine-tuned model says of new inputs."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from bert_jax.nn.task_heads import HeadConfig, TaskNetwork
from bert_jax.nn.tensor_names import HEAD, parts
from bert_jax.runtime import distributed
from bert_jax.runtime.console import summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import at
from bert_jax.training.partitioner import Partitioner
from pipelines.models.open import MODEL_HELP, LoadedModel, open_model
from pipelines.settings import command_parser, parse
from pipelines.tasks.config import TaskOptions
from pipelines.tasks.experiment import all_logits, logits_step, write_records
from pipelines.tasks.registry import open_task
from pipelines.tasks.task import Columns, Record, Task

# Of models that were fine-tuned elsewhere.
_TASKS = {
    "BertForSequenceClassification": "classification",
    "BertForTokenClassification": "tagging",
    "BertForQuestionAnswering": "qa",
    "BertForMultipleChoice": "multiple-choice",
}


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("predict", "Writes what a fine-tuned model says of new inputs.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="as for training; tagging also takes .txt"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON Lines to write")
    parser.add_argument("--batch-size", type=int, default=32, help="rows at a time")
    parser.add_argument("--length", type=int, default=0, help="most tokens (0: as trained)")
    for name in ("text", "pair", "label", "id"):
        parser.add_argument(f"--columns.{name}", default="", help=f"column of the {name}")
    parser.add_argument(
        "--rank",
        action="store_true",
        help="order the passages of each query (equal query, or query_id) by a model of pairs",
    )
    parser.add_argument(
        "--score", action="store_true", help="the input has labels: also print the metrics"
    )
    options = parse(parser, argv)
    started = time.monotonic()
    if options.length and options.length < 8:
        raise BadArgumentsError(f"--length must be at least 8, not {options.length}")
    if not Path(options.output).parent.is_dir():
        raise BadArgumentsError(f"--output {options.output}: its folder does not exist")
    if Path(options.output).is_dir():
        raise BadArgumentsError(f"--output {options.output} is a folder; name a file in it")
    if options.batch_size < 1:
        raise BadArgumentsError(f"--batch-size must be at least 1, not {options.batch_size}")
    distributed.enable_compilation_cache()
    partitioner = Partitioner(distributed.devices()[: len(jax.local_devices())])
    model = open_model(at(options.model), partitioner)
    columns = columns_of(model, Columns(**vars(options.columns)))
    classes = model.weights.labels
    name, head, given = task_of(model)
    if options.rank and (name != "classification" or len(classes) != 2):
        raise BadArgumentsError(
            f"--rank needs a classification model of two classes; this is {name}, {len(classes)}"
        )
    task = ranking() if options.rank else open_task(name, given)
    examples = task.read(options.input, columns, labelled=options.score)
    found = predict(model, task, head, examples, partitioner, options.batch_size, options.length)
    written = ranked(examples, found, classes) if options.rank else found
    write_records(written, Path(options.output))
    if options.score and examples:
        print(json.dumps(task.score(examples, found, classes), indent=1))  # noqa: T201
    summary(
        f"{options.output}: {len(written):,} predictions",
        started,
        ("serve", options.model),
        task=name,
        of=options.input,
    )


def columns_of(model: LoadedModel, given: Columns) -> Columns:
    """The columns that the model was trained with, and in their place those that are given."""
    trained = model.finetune.data.columns if model.finetune else Columns()
    return Columns(**{k: v or getattr(trained, k) for k, v in vars(given).items()})


def ranking() -> Any:
    """The ranking of passages, which scikit-learn's import makes slow to load."""
    return importlib.import_module("pipelines.tasks.ranking").TASK


def ranked(
    examples: Sequence[Any], found: Sequence[Record], classes: Sequence[str]
) -> list[Record]:
    """The records of all queries, each query's best first."""
    module = importlib.import_module("pipelines.tasks.ranking")
    queries = module.rank(module.scored(examples, found, classes))
    return [record for records in queries for record in records]


def predict(
    model: LoadedModel,
    task: Task,
    head: HeadConfig,
    examples: Sequence[Any],
    partitioner: Partitioner,
    batch_size: int = 32,
    length: int = 0,
) -> list[Record]:
    """One JSON object per example, in their order.

    Raises:
        BadInputError: The network lacks a part that the task needs.
    """
    classes = list(model.weights.labels)
    if not examples:
        return []
    features = task.features(examples, model.tokenizer(), longest_row(model, length), classes)
    network = network_of(model, task, head)
    params = network.completed(model.weights.params)
    logits = all_logits(
        logits_step(network, partitioner), params, features, batch_size, partitioner
    )
    return task.predict(examples, features, logits, classes)


def longest_row(model: LoadedModel, length: int = 0) -> int:
    """Most tokens of a row: `length`, or as the model was trained; never more than it takes."""
    trained = model.finetune.data.length if model.finetune else model.network.max_positions
    return min(length or trained, model.network.max_positions)


def network_of(model: LoadedModel, task: Task, head: HeadConfig) -> TaskNetwork:
    """The network of a fine-tuned model; the head is that of `task_of`."""
    return TaskNetwork(model.network, head, len(model.weights.labels), task.head == "tokens")


def task_of(model: LoadedModel) -> tuple[str, HeadConfig, TaskOptions]:
    """The task of a fine-tuned model, its head and options; by its architecture if made elsewhere.

    Raises:
        BadInputError: It has no task head.
    """
    if model.finetune is not None:
        return model.finetune.task, model.finetune.head, model.finetune.options
    kind = model.weights.architecture
    if HEAD not in parts(model.weights.params) or kind not in _TASKS:
        raise BadInputError(
            f"{model.path} is a {kind} without a task head; bert-jax finetune TASK trains one"
        )
    single = kind == "BertForSequenceClassification" and len(model.weights.labels) == 1
    return "regression" if single else _TASKS[kind], HeadConfig(), TaskOptions()
