"""All tasks by name. To add a task, add its class to `TASKS`.

A task with options of its own also becomes a base class of `TaskOptions`. Task modules import
large libraries, such as scikit-learn, inside of functions: this module is imported by commands
that only need the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.option_errors import nearest
from pipelines.tasks.classification import Classification
from pipelines.tasks.multi_label.task import MultiLabel, MultiLabelOptions
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.qa.task import QaOptions, QuestionAnswering
from pipelines.tasks.ranking import PassageRanking
from pipelines.tasks.regression import Regression
from pipelines.tasks.summarization.task import Summarization, SummarizationOptions
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.tagging.task import Tagging, TaggingOptions
from pipelines.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Classification,
        MultiLabel,
        Regression,
        MultipleChoice,
        Tagging,
        QuestionAnswering,
        Summarization,
    )
}
# Other uses of a model that was trained on a task: subclasses of that task.
OTHER_USES: tuple[type[Task], ...] = (PassageRanking,)


# Dataclass fields are in the reverse order of the bases.
@dataclass(frozen=True)
class TaskOptions(SummarizationOptions, QaOptions, TaggingOptions, MultiLabelOptions):
    """Options of single tasks; each task reads its own."""


def open_task(
    name: str,
    options: TaskOptions | None = None,
    bad_rows: BadRows = STOP,
    thresholds: tuple[float, ...] = (),
) -> Task:
    """Return the task of that name.

    Args:
        name: One of TASKS.
        options: See `Task`.
        bad_rows: See `Task`.
        thresholds: Of a model; see `Task`.

    Raises:
        BadArgumentsError: There is no such task.
        BadInputError: Its options are out of range.
    """
    if name not in TASKS:
        raise BadArgumentsError(
            f"unknown task {name!r}; tasks: {', '.join(TASKS)}{nearest(name, TASKS)}"
        )
    task = TASKS[name](options or TaskOptions(), bad_rows)
    task.thresholds = thresholds
    return task


def task_of_architecture(
    architecture: str, classes: Sequence[str], problem_type: str = ""
) -> str | None:
    """Return the task of a model from Hugging Face; None if there is none.

    Args:
        architecture: Its name of the network.
        classes: Names of the outputs.
        problem_type: Its ``problem_type``; empty = derived from the number of classes.
    """
    tasks = [
        task
        for task in TASKS.values()
        if task.architecture and task.architecture == architecture and task.fits(classes)
        if task.problem_type in ("", problem_type)
    ]
    # One that needs this problem_type comes before those that need none.
    return min(tasks, key=lambda task: not task.problem_type).name if tasks else None


def uses(name: str, classes: Sequence[str]) -> list[type[Task]]:
    """Return the tasks that a model can be used for, the task that it was trained on first."""
    task = TASKS[name]
    others = [use for use in OTHER_USES if issubclass(use, task) and use.fits(classes)]
    return [task, *others]
