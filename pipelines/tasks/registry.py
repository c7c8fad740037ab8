"""The tasks by name; each is imported when it is asked for, as some bring large libraries."""

from __future__ import annotations

import importlib

from bert_jax.errors import BadArgumentsError
from pipelines.settings import nearest
from pipelines.tasks.task import Task

# Name -> module of this package.
TASKS = {
    "classification": "classification",
    "regression": "regression",
    "multiple-choice": "choice",
    "tagging": "tagging",
    "qa": "qa",
    "summarization": "summarization",
}


def open_task(name: str) -> Task:
    """The task of that name.

    Raises:
        BadArgumentsError: There is none.
    """
    if name not in TASKS:
        raise BadArgumentsError(
            f"unknown task {name!r}{nearest(name, TASKS)}; tasks: {', '.join(TASKS)}"
        )
    return importlib.import_module(f"pipelines.tasks.{TASKS[name]}").TASK
