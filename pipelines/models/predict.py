"""Predictions of a fine-tuned model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bert_jax.config.task_head import HeadConfig
from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.nn.tensor_names import ARCHITECTURES, HEAD, POOLER, parts
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.models.formats.hugging_face import CONFIG
from pipelines.models.open import LoadedModel
from pipelines.tasks.experiment import all_logits, logits_step
from pipelines.tasks.ranking import PassageRanking, ranked
from pipelines.tasks.registry import TaskOptions, open_task, task_of_architecture
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.task import Columns, Record, Task


@dataclass(frozen=True)
class Predictions:
    """The predictions of a fine-tuned model for the examples of a file.

    Attributes:
        trained_task: Name of the task that the model was trained on.
        task: The task that made the predictions.
        examples: The examples, in the order of the file.
        records: One JSON object per example.
        classes: Names of the outputs.
    """

    trained_task: str
    task: Task
    examples: Sequence[Any]
    records: list[Record]
    classes: list[str]

    def ranked(self) -> list[Record]:
        """Return the records, sorted by query and rank if the task is a ranking."""
        if isinstance(self.task, PassageRanking):
            return ranked(self.examples, self.records, self.classes)
        return self.records

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of labeled examples; empty without examples."""
        if not self.examples:
            return {}
        return self.task.score(self.examples, self.records, self.classes)


def predict_file(
    model: LoadedModel,
    source: str,
    batch_size: int = 32,
    *,
    length: int = 0,
    columns: Columns | None = None,
    labeled: bool = False,
    rank: bool = False,
    bad_rows: BadRows = STOP,
) -> Predictions:
    """Return the predictions for the examples of a file.

    Args:
        model: A fine-tuned model.
        source: A file, ``tfds:NAME:SPLIT`` or ``hf:ORG/NAME:SPLIT``, as for training.
        batch_size: Rows per batch.
        length: Most tokens of a row; 0 = as trained.
        columns: Names of the columns; those of the training complete them.
        labeled: Read the labels, for metrics.
        rank: Rank the passages of each query.
        bad_rows: What to do with rows that cannot be read.

    Raises:
        BadArgumentsError: The model cannot rank.
        BadInputError: The model has no task head, or the input cannot be read.
    """
    columns = columns_of(model, columns or Columns())
    classes = list(model.weights.labels)
    name, head, _ = task_of(model)
    if rank and (name != "classification" or len(classes) != 2):
        raise BadArgumentsError(
            f"--rank needs a classification model with 2 classes; {model.path} is a {name} model"
            f" with {len(classes)}"
        )
    task = PassageRanking(None, bad_rows) if rank else open_task_of(model, bad_rows)
    trained = model.weights.text_columns
    if task.needs_pairs and len(trained) == 1:
        raise BadArgumentsError(
            f"--rank needs a model of pairs, but {model.path} was trained on single texts"
            f" ({trained[0]}); train one with data.columns.pair"
        )
    if notice := task.notice():
        say(notice)
    task.expect_classes(classes)
    examples = task.matched(task.read(source, columns, labeled=labeled), classes)
    task.check_texts(examples, trained)
    records = predict(model, task, head, examples, batch_size, length)
    return Predictions(name, task, examples, records, classes)


def predict_objects(
    model: LoadedModel, inputs: Iterable[Any], batch_size: int = 32
) -> list[Record]:
    """Return the predictions for objects of a program, in their order.

    Args:
        model: A fine-tuned model.
        inputs: Texts, pairs of texts, or dictionaries with the fields of a request to ``serve``.
        batch_size: Rows per batch.

    Raises:
        BadArgumentsError: An object is none of these.
        BadInputError: The model has no task head, or was trained on another number of texts.
    """
    _, head, _ = task_of(model)
    task = open_task_of(model)
    examples = [
        replace(example, id=str(number))
        for number, item in enumerate(inputs)
        for example in task.from_request(_request(task, item, number))
    ]
    task.check_texts(examples, model.weights.text_columns)
    return predict(model, task, head, examples, batch_size)


def _request(task: Task, item: Any, number: int) -> Any:
    """Return an item of a list as an object of type ``endpoint.request``."""
    names = [field.name for field in fields(task.endpoint.request)]
    values = item
    if isinstance(item, str):
        values = {names[0]: item}
    elif isinstance(item, tuple | list) and len(item) <= len(names):
        values = dict(zip(names, item, strict=False))
    if isinstance(values, dict) and all(map(_is_text, values.values())):
        try:
            return task.endpoint.request(**values)
        except TypeError:  # a field is missing or unknown
            pass
    raise BadArgumentsError(
        f"inputs[{number}] is {item!r:.60}; give texts, or dictionaries with {', '.join(names)}"
    )


def _is_text(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return all(isinstance(text, str) and not HALF_CHARACTER.search(text) for text in texts)


def predict(
    model: LoadedModel,
    task: Task,
    head: HeadConfig,
    examples: Sequence[Any],
    batch_size: int = 32,
    length: int = 0,
) -> list[Record]:
    """Return one JSON object per example, in their order.

    Raises:
        BadInputError: The network lacks a part that the task needs.
    """
    classes = list(model.weights.labels)
    if not examples:
        return []
    tokenizer = model.tokenizer()
    features = task.features(examples, tokenizer, row_length(model, length), classes)
    tokenizer.special_words.report()
    features.require_token_types(model.network)
    network = task_network_of(model, task, head)
    params = network.completed(model.weights.params)
    step = logits_step(network, model.partitioner)
    logits = all_logits(step, params, features, batch_size, model.partitioner)
    return task.predict(examples, features, logits, classes)


def task_of(model: LoadedModel) -> tuple[str, HeadConfig, TaskOptions]:
    """Return the task of a fine-tuned model, its head and its options.

    The architecture decides for a model that was fine-tuned elsewhere.

    Raises:
        BadInputError: The model has no task head.
    """
    if model.finetune is not None:
        return model.finetune.task, model.finetune.head, model.finetune.options
    kind = model.weights.architecture
    for part in ARCHITECTURES[kind].parts & {POOLER, HEAD}:
        model.weights.require_usable(part)
    _check_problem_type(model)
    task = task_of_architecture(kind, model.weights.labels, model.weights.problem_type)
    if HEAD not in parts(model.weights.params) or task is None:
        raise BadInputError(
            f"{model.path} is a {kind} without a task head; train one with bert-jax finetune TASK"
        )
    return task, HeadConfig(), TaskOptions()


def open_task_of(model: LoadedModel, bad_rows: BadRows = STOP) -> Task:
    """Return the task of a fine-tuned model, with the thresholds of the model; see `task_of`."""
    name, _, options = task_of(model)
    return open_task(name, options, bad_rows, model.weights.thresholds)


def _check_problem_type(model: LoadedModel) -> None:
    """Refuse a head whose ``problem_type`` is not what its number of outputs is here."""
    kind, count = model.weights.problem_type, len(model.weights.labels)
    if kind == "regression" and count > 1:
        remedy = f"but the head has {count} outputs; regression has one. Correct problem_type"
    elif kind == "single_label_classification" and count == 1:
        remedy = "but the head has 1 output; set problem_type to regression, or remove it"
    else:
        return
    raise BadInputError(f"{model.path / CONFIG}: problem_type is {kind}, {remedy}")


def task_network_of(model: LoadedModel, task: Task, head: HeadConfig) -> TaskNetwork:
    """Return the network of a fine-tuned model; `head` comes from `task_of`."""
    return TaskNetwork(model.network, head, len(model.weights.labels), task.head == "tokens")


def row_length(model: LoadedModel, length: int = 0) -> int:
    """Return the most tokens of a row: `length`, or as trained; at most what the model accepts."""
    trained = model.finetune.data.length if model.finetune else model.network.max_positions
    return min(length or trained, model.network.max_positions)


def columns_of(model: LoadedModel, columns: Columns) -> Columns:
    """Return `columns`, completed by those that the model was trained with."""
    trained = model.finetune.data.columns if model.finetune else Columns()
    return Columns(**{k: v or getattr(trained, k) for k, v in vars(columns).items()})
