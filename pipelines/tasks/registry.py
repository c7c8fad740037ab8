"""The tasks by name; each is imported when it is asked for, as some bring large libraries."""

from __future__ import annotations

import importlib
from typing import Any

from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.settings import nearest
from pipelines.tasks.config import FinetuneConfig, TaskOptions
from pipelines.tasks.task import Task

# Name -> module of this package.
TASKS = {
    "classification": "classification",
    "regression": "regression",
    "multiple-choice": "multiple_choice",
    "tagging": "tagging.task",
    "qa": "qa.task",
    "summarization": "summarization.task",
}


def task_network(config: FinetuneConfig, outputs: int) -> TaskNetwork:
    """The network of a fine-tuning run."""
    tokens = open_task(config.task).head == "tokens"
    return TaskNetwork(config.model, config.head, outputs, tokens)


def open_task(name: str, options: TaskOptions | None = None) -> Task:
    """The task of that name.

    Raises:
        BadArgumentsError: There is none.
        BadInputError: Its options are impossible.
    """
    if name not in TASKS:
        raise BadArgumentsError(
            f"unknown task {name!r}; tasks: {', '.join(TASKS)}{nearest(name, TASKS)}"
        )
    module: Any = importlib.import_module(f"pipelines.tasks.{TASKS[name]}")
    given = options or TaskOptions()
    if name == "tagging":
        return module.Tagging(document_context=given.document_context)
    if name == "summarization":
        return module.Summarization(select=given.sentences, language=given.language)
    if name == "qa":
        names = ("stride", "question_length", "n_best", "answer_length", "null_threshold")
        return module.QuestionAnswering(
            module.QaOptions(**{key: getattr(given, key) for key in names})
        )
    return module.TASK
