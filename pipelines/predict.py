"""``bert-jax predict``: what a fine-tuned model says of new inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax

from bert_jax import parallel
from bert_jax.console import say
from bert_jax.convert import HEAD, parts
from bert_jax.errors import BadArgumentsError, BadInputError
from bert_jax.task_model import HeadConfig, TaskNetwork
from pipelines import cli
from pipelines.model import MODEL_HELP, Model, open_model
from pipelines.settings import command_parser, parse
from pipelines.tasks.registry import open_task
from pipelines.tasks.task import Columns, Record
from pipelines.tasks.work import all_logits

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
    parser.add_argument("--input", required=True, metavar="FILE", help="as for training")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON Lines to write")
    parser.add_argument("--batch-size", type=int, default=32, help="rows at a time")
    parser.add_argument("--length", type=int, default=0, help="most tokens (0: as trained)")
    for name in ("text", "pair", "id"):
        parser.add_argument(f"--columns.{name}", default="", help=f"column of the {name}")
    options = parse(parser, argv)
    if options.batch_size < 1:
        raise BadArgumentsError(f"--batch-size must be at least 1, not {options.batch_size}")
    parallel.enable_compilation_cache()
    layout = parallel.Layout(parallel.devices()[: len(jax.local_devices())])
    columns = Columns(options.columns.text, options.columns.pair, "", options.columns.id)
    model = open_model(Path(options.model), layout)
    found = predict(model, options.input, columns, layout, options.batch_size, options.length)
    write_lines(found, Path(options.output))
    say(f"{options.output}: {len(found):,} predictions")


def predict(
    model: Model,
    source: str,
    columns: Columns,
    layout: parallel.Layout,
    batch_size: int = 32,
    length: int = 0,
) -> list[Record]:
    """One JSON object per example of `source`, in their order.

    Raises:
        BadInputError: The model has no task head, or the input cannot be read.
    """
    name, head = _task(model)
    task, config, classes = open_task(name), model.network, list(model.weights.labels)
    length = length or (model.finetune.data.length if model.finetune else config.max_positions)
    examples = task.read(source, columns, labelled=False)
    if not examples:
        return []
    features = task.features(
        examples, model.tokenizer(), min(length, config.max_positions), classes
    )
    network = TaskNetwork(config, head, len(classes), task.head == "tokens")
    params = network.completed(model.weights.params)
    logits = all_logits(network, params, features, batch_size, layout)
    return task.predict(examples, features, logits, classes)


def _task(model: Model) -> tuple[str, HeadConfig]:
    if model.finetune is not None:
        return model.finetune.task, model.finetune.head
    kind = model.weights.architecture
    if HEAD not in parts(model.weights.params) or kind not in _TASKS:
        raise BadInputError(
            f"{model.path} is a {kind} without a task head; bert-jax finetune TASK trains one"
        )
    if kind == "BertForSequenceClassification" and len(model.weights.labels) == 1:
        return "regression", HeadConfig()
    return _TASKS[kind], HeadConfig()


def write_lines(records: Sequence[Record], path: Path) -> None:
    """Writes JSON Lines; an older file stays until the new one is whole."""
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    draft.replace(path)


if __name__ == "__main__":
    cli.run(main)
