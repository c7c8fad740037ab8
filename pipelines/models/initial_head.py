"""The task head of a fine-tuning run that starts from a model with a task head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bert_jax.nn.encoder import Params
from bert_jax.nn.tensor_names import HEAD, parts
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.models.open import LoadedModel
from pipelines.models.predict import task_of
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.tables.labels import first_names
from pipelines.tasks.task import Task


def initial_head(
    model: LoadedModel, config: FinetuneConfig, task: Task, classes: Sequence[str]
) -> tuple[list[str], Params | None]:
    """Choose the classes and the head of a run that starts from `model`; print why.

    Args:
        model: Given as ``init``.
        config: Of the run; see ``head.init``.
        task: Of the run.
        classes: Of the training data.

    Returns:
        The classes, and the head for them; None = a new one. With ``head.init: auto``, the head is
        kept if it is of the same task and kind and has the same classes, in any order: its outputs
        are sorted by their names.

    Raises:
        BadInputError: ``head.init: keep``, and the model has no such head.
    """
    mode, names = config.head.init, list(model.weights.labels)
    if HEAD not in parts(model.weights.params):
        if mode == "keep":
            raise BadInputError(f"head.init is keep, but {model.path} has no task head; use new")
        return list(classes), None
    reason = "head.init is new" if mode == "new" else _difference_of_kind(model, config, task)
    if mode == "keep" and reason:
        raise BadInputError(f"head.init is keep, but {reason}; use auto or new")
    if mode == "auto" and not reason:
        reason = _difference_of_classes(task, classes, names)
    if reason:
        say(f"the task head of the model is not used: {reason}")
        return list(classes), None
    head = model.weights.params[HEAD]
    if task.outputs == "fixed":
        say(f"the task head of {model.path} is kept")
        return list(classes), head
    if mode == "keep":
        classes = names
    say(f"the task head of {model.path} is kept, with its classes: {first_names(classes)}")
    order = np.array([names.index(name) for name in classes])
    return list(classes), head | {
        "kernel": head["kernel"][:, order],
        "bias": head["bias"][order],
    }


def _difference_of_kind(model: LoadedModel, config: FinetuneConfig, task: Task) -> str:
    """Return how the head differs from one of the run, whatever its classes; empty if it fits."""
    name, head, _ = task_of(model)
    if name != task.name:
        return f"it is one of {name}, not of {task.name}"
    for key in ("kind", "features", *(["lstm_layers"] if head.kind == "bilstm" else [])):
        before, now = getattr(head, key), getattr(config.head, key)
        if before != now:
            return f"its head.{key} is {before}, not {now}"
    return ""


def _difference_of_classes(task: Task, classes: Sequence[str], names: Sequence[str]) -> str:
    if task.outputs == "fixed":
        return ""
    if task.outputs == "value":
        return "its values may have another scale; --head.init keep uses it"
    if sorted(classes) == sorted(names) and len(set(names)) == len(names):
        return ""
    of_data = first_names(classes)
    return f"its classes are {first_names(names)}, those of the data are {of_data}"
