"""Reader of labeled and unlabeled questions; `entries` has the forms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import File, escaped, find
from pipelines.tasks.qa.entries import (
    Entry,
    answer_texts,
    answers_of,
    entries_of,
    entries_of_table,
    get,
    has_null,
    text,
)
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.tables.json_rows import is_lines, value_of
from pipelines.tasks.tables.read import read as read_table
from pipelines.tasks.tables.text import JSON_ARRAY, JSON_LINES, text_of


@dataclass(frozen=True)
class Question:
    """A question about a context.

    Attributes:
        id: Unique.
        question: Its text.
        context: The text that may contain an answer.
        answers: All right answers; empty if it is impossible or not labeled.
        span: First and one-past-last character of the answer to learn; None if there is none.
        impossible: The context has no answer, and the network learns this.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...] = ()
    span: tuple[int, int] | None = None
    impossible: bool = False


def read(source: str, labeled: bool, bad_rows: BadRows = STOP) -> list[Question]:
    """Read the questions of a file or data set.

    An answer that is not at ``answer_start`` is searched in the context. If the context does not
    contain it, the question counts for scores, but not for training. Messages have both counts.

    Args:
        source: A JSON file, or a table; see `tables.read`.
        labeled: Read answers.
        bad_rows: What to do with rows of a table that cannot be read.

    Raises:
        BadInputError: It cannot be read, lacks a key, has no questions or has an id twice.
    """
    entries, version = _entries(source, bad_rows)
    if not entries:
        raise BadInputError(f"{source} has no questions; check that it is a SQuAD file")
    with_null = labeled and has_null(entries, version)
    problems: dict[str, list[str]] = {"moved": [], "lost": []}
    questions = [_question(entry, labeled, with_null, problems) for entry in entries]
    if moved := problems["moved"]:
        say(
            f"{source}: {len(moved):,} answers are not at their answer_start; the nearest match is"
            f" used (first: {moved[0]!r})"
        )
    if lost := problems["lost"]:
        say(
            f"{source}: {len(lost):,} questions have an answer that is not in the context; they are"
            f" not used for training (first: {lost[0]!r})"
        )
    impossible = sum(question.impossible for question in questions)
    if impossible and all(entry.is_row for entry in entries):
        if impossible == len(questions):
            raise BadInputError(f"{source}: no question has an answer; choose labeled questions")
        say(f"{source}: {impossible:,} of {len(questions):,} questions have no answer (SQuAD 2.0)")
    return questions


def _entries(source: str, bad_rows: BadRows) -> tuple[list[Entry], Any]:
    """Return the questions, and the version of SQuAD if it is stated."""
    is_json = File(source, 0).content_suffix == ".json"
    files = find(escaped(source)) if is_json else []
    content = text_of(files[0], (JSON_LINES, JSON_ARRAY)) if files else ""
    if not files or is_lines(content):
        return entries_of_table(read_table(source, bad_rows=bad_rows)), ""
    data = value_of(source, content)
    version = data.get("version", "") if isinstance(data, dict) else ""
    return entries_of(data, source), version


def _question(
    entry: Entry, labeled: bool, with_null: bool, problems: dict[str, list[str]]
) -> Question:
    name, question = entry.id, text(entry.qa, "question", entry.location)
    if not labeled:
        return Question(name, question, entry.context)
    texts = answer_texts(entry, with_null)
    stated = entry.qa.get("is_impossible")
    impossible = not texts if stated is None else bool(stated)
    span = None
    if not impossible:
        starts = [
            get(answer, "answer_start", int, f"{entry.location}.answers[{n}]")
            for n, answer in enumerate(answers_of(entry))
        ]
        spans = (_located(entry.context, *pair) for pair in zip(texts, starts, strict=True))
        span = next(filter(None, spans), None)
        if span is None:
            problems["lost"].append(name)
        elif span[0] - starts[0] != _margin(texts[0]):
            problems["moved"].append(name)
    return Question(name, question, entry.context, texts, span, impossible)


def _located(context: str, answer: str, start: int) -> tuple[int, int] | None:
    """Return the span of an answer, without surrounding white space: the one nearest to `start`."""
    stripped = answer.strip()
    expected = start + _margin(answer)
    if not stripped:
        return None
    if expected >= 0 and context.startswith(stripped, expected):
        return expected, expected + len(stripped)
    starts = [match.start() for match in re.finditer(re.escape(stripped), context)]
    if not starts:
        return None
    nearest = min(starts, key=lambda position: abs(position - expected))
    return nearest, nearest + len(stripped)


def _margin(answer: str) -> int:
    return len(answer) - len(answer.lstrip())
