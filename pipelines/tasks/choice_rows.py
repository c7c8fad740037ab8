"""Read multiple choice questions from tables, in the forms in which they are distributed.

    text, choices, label                a list of choices; the index of the right one, or its letter
    text, ending0, ending1, …, label    a column for each choice; trailing empty ones do not count
    sent1, sent2, ending0, …, label     SWAG: every ending continues sent2
    ctx, endings, label                 HellaSwag
    article, question, options, answer  RACE; also its files, with lists of questions
    question, choices, answerKey        ARC, CommonsenseQA: the choices have labels of their own
    premise, question, choice1, choice2, label    COPA: the question is cause or effect

A column ``question`` beside another text is put before every choice, or the choice into its gap.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import File, escaped, find, is_folder
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.tables.class_folders import TEXT
from pipelines.tasks.tables.examples import NO_PAIR
from pipelines.tasks.tables.json_rows import value_of
from pipelines.tasks.tables.labels import NO_LABEL
from pipelines.tasks.tables.labels import labeled as with_labels
from pipelines.tasks.tables.read import read as read_table
from pipelines.tasks.tables.table import Table, checked, option
from pipelines.tasks.tables.text import JSON_LINES, starts_with, text_of
from pipelines.tasks.task import Columns, Record

TEXTS = ("text", "context", "ctx", "article", "passage", "sent1", "premise", "goal")
QUESTIONS = ("question", "question_stem")
LISTS = ("choices", "endings", "options")
LABELS = ("label", "answer", "answerKey")
_NUMBERED = re.compile(r"(?:ending|choice|answer|option|sol)_?([0-9]{1,9})")
_PROMPTS = {"cause": "What was the cause?", "effect": "What happened as a result?"}  # of COPA
# Columns of data sets that are known: others that look like text are not halves of the question.
_KNOWN = (
    {"sent1", "sent2"},
    {"ctx", "endings"},
    {"article", "question", "options"},
    {"choices", "answerKey"},
    {"premise", "choice1", "choice2"},
)
_GAP = "_"


@dataclass(frozen=True, slots=True)
class Question:
    """A text and its possible continuations.

    Attributes:
        id: Unique.
        text: The text.
        choices: The continuations or answers.
        label: Index of the right choice; None without labels.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    label: int | None = None


@dataclass(frozen=True)
class _Choices:
    """The choices of a row.

    Attributes:
        texts: At least two.
        labels: Their own labels; empty if they have none.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()


def read_questions(
    source: str, columns: Columns, labeled: bool, bad_rows: BadRows = STOP
) -> list[Question]:
    """Read the questions of a table, or of the files of RACE; see `Task.read`.

    Raises:
        BadInputError: A column or value is missing or has another form.
    """
    table = _with_single_questions(_read(source, columns, bad_rows))
    lists = next((name for name in LISTS if name in table.columns), "")
    numbered = [] if lists else _numbered(table)
    label = columns.label
    if labeled:
        label = table.column(columns.label, LABELS, "label")
        table = with_labels(table, label)
    choices = _listed(table, lists) if lists else _of_columns(table, numbered)
    text, before = _text_columns(table, columns)
    _report(table, columns, [lists] if lists else numbered, text, before, label)
    texts = table.texts(text)
    parts = [row.texts for row in choices]
    if before and _is_copa(table, before):
        prompts = [_PROMPTS[name] for name in table.names(before)]
        texts = [f"{text} {prompt}" for text, prompt in zip(texts, prompts, strict=True)]
    elif before:
        gaps = before in QUESTIONS
        pairs = zip(table.texts(before), parts, strict=True)
        parts = [tuple(_joined(start, part, gaps) for part in row) for start, row in pairs]
    table.warn_of_empty(texts, *_columns_of(parts))
    labels: Sequence[int | None] = [None] * len(texts)
    if labeled:
        labels = _indices(table, label, choices, numbered)
    return [Question(*row) for row in zip(table.ids(columns.id), texts, parts, labels, strict=True)]


def _read(source: str, columns: Columns, bad_rows: BadRows) -> Table:
    """Read a table, or a file or folder of RACE: a JSON object per .txt file."""
    files = _texts(source)
    if not files or not starts_with(files[0], b"{"):
        return read_table(source, columns, bad_rows)
    rows: list[Record] = []
    locations: list[str] = []
    skipped: list[str] = []
    for file in files:
        try:
            row = value_of(file.name, text_of(file, (JSON_LINES,)))
        except BadInputError:
            if not bad_rows.skip:
                raise
            skipped.append(file.name)
        else:
            rows.append(row)
            locations.append(file.name)
    bad_rows.check(source, skipped, len(files))
    names = list(dict.fromkeys(name for row in rows for name in row))
    numbers = [number for number, file in enumerate(files) if file.name not in skipped]
    return Table(source, names, rows, locations, {}, bad_rows, numbers=numbers)


def _texts(source: str) -> list[File]:
    """List the .txt files of a path, URL or pattern, or below a folder."""
    if is_folder(source):
        folder = escaped(source.rstrip("/"))
        found = [file for depth in range(3) for file in find(f"{folder}/{'*/' * depth}*")]
        return [file for file in found if file.content_suffix == TEXT]
    if File(source, 0).content_suffix != TEXT:
        return []
    return find(escaped(source)) or find(source)


def _with_single_questions(table: Table) -> Table:
    """Make a row per question of RACE's lists, and take the nested question of CommonsenseQA apart.

    Raises:
        BadInputError: The lists of a row differ in length.
    """
    rows: list[Record] = []
    locations: list[str] = []
    for location, row in zip(table.locations, table.rows, strict=True):
        for number, single in enumerate(_single(row, location), 1):
            rows.append(single)
            locations.append(location if single is row else f"{location}, question {number}")
    if all(new is old for new, old in zip(rows, table.rows, strict=False)):
        return table
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return replace(table, columns=columns, rows=rows, locations=locations, numbers=())


def _single(row: Record, location: str) -> Iterator[Record]:
    question, questions, options = (row.get(key) for key in ("question", "questions", "options"))
    if isinstance(question, dict) and "stem" in question:
        yield {**row, "question": question["stem"], "choices": question.get("choices")}
    elif isinstance(questions, list) and isinstance(options, list):
        rest = {key: row[key] for key in row.keys() - {"questions", "options", "answers"}}
        answers = row.get("answers", [None] * len(questions))
        if not isinstance(answers, list) or not len(questions) == len(options) == len(answers):
            raise BadInputError(
                f"{location}: 'questions', 'options' and 'answers' must be lists of equal length"
            )
        for number, each in enumerate(zip(questions, options, answers, strict=True)):
            new = dict(zip(("question", "options", "answer"), each, strict=True))
            yield {**rest, **new} | ({"id": f"{row['id']}-{number}"} if "id" in row else {})
    else:
        yield row


def _text_columns(table: Table, columns: Columns) -> tuple[str, str]:
    """Return the column of the text, and that of the text before each choice, which may be empty.

    Raises:
        BadInputError: There is no such column.
    """
    text = table.column(columns.text, (*TEXTS, *QUESTIONS), "text")
    if columns.pair:
        before = "" if columns.pair == NO_PAIR else table.column(columns.pair, (), "pair")
        return text, before
    usual = {"sent1": ("sent2",)}.get(text, QUESTIONS if text in TEXTS else ())
    return text, next((name for name in usual if name in table.columns), "")


def _is_copa(table: Table, column: str) -> bool:
    return all(row.get(column) in _PROMPTS for row in table.rows)


def _joined(start: str, choice: str, gaps: bool) -> str:
    """Put a text before a choice, or the choice into the gap of a question, as for RACE."""
    if gaps and _GAP in start:
        return re.sub(f"{_GAP}+", lambda match: choice, start, count=1)
    return f"{start} {choice}"


def _report(
    table: Table, columns: Columns, choices: list[str], text: str, before: str, label: str
) -> None:
    """Print which columns are read.

    Raises:
        BadInputError: A column that is not read looks like a part of the question.
    """
    used = dict.fromkeys(choices, "choices")
    used |= {text: "text", before: "before each choice", label: "label", columns.id or "id": "id"}
    known = any(names <= set(table.columns) for names in _KNOWN)
    asks = not (known or before or columns.pair)
    if asks and (texts := list(filter(table.has_text, table.others(used)))):
        raise BadInputError(
            f"{table.source}: {text!r} is read as text, but {texts[0]!r} looks like text, too; to"
            f" put it before each choice, add {option('pair', texts[0])}; otherwise add"
            f" {option('pair', NO_PAIR)}"
        )
    table.report(used)


def _numbered(table: Table) -> list[str]:
    """Return the columns of single choices, in order.

    Raises:
        BadInputError: There are less than two.
    """
    numbers = {int(m[1]): name for name in table.columns if (m := _NUMBERED.fullmatch(name))}
    if len(numbers) < 2:
        raise BadInputError(
            f"{table.source} has neither a list 'choices', 'endings' or 'options' nor columns"
            f" ending0, ending1 …; its columns are {', '.join(table.columns)}; rename those of the"
            " choices"
        )
    return [numbers[number] for number in sorted(numbers)]


def _of_columns(table: Table, names: list[str]) -> list[_Choices]:
    """Return the choices in several columns.

    Raises:
        BadInputError: A row has less than two.
    """
    rows = []
    for location, row in zip(table.locations, table.rows, strict=True):
        filled = [n for n, name in enumerate(names, 1) if row.get(name) not in (None, "")]
        count = max(filled, default=0)
        if count < 2:
            raise BadInputError(
                f"{location} has {count} choices in {', '.join(names)}; it needs two or more"
            )
        texts = tuple(checked(row.get(name), name, location) for name in names[:count])
        rows.append(_Choices(texts))
    return _counted(table, rows)


def _listed(table: Table, column: str) -> list[_Choices]:
    """Return the choices in a column of lists.

    Raises:
        BadInputError: A value is not a list of at least two choices.
    """
    rows = []
    for location, row in zip(table.locations, table.rows, strict=True):
        texts, labels = _parts(row.get(column))
        if not isinstance(texts, list) or len(texts) < 2 or len(labels) not in (0, len(texts)):
            raise BadInputError(
                f"{location}: {column!r} is not a list of at least two texts, nor of objects with"
                " 'label' and 'text'"
            )
        names = tuple(checked(label, "label", location) for label in labels)
        rows.append(_Choices(tuple(checked(text, column, location) for text in texts), names))
    return _counted(table, rows)


def _parts(value: Any) -> tuple[Any, list[Any]]:
    """Return the texts and labels of a list, of a list of objects, or of an object of lists."""
    if isinstance(value, dict) and isinstance(value.get("label"), list):
        return value.get("text"), value["label"]
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return [each.get("text") for each in value], [each.get("label") for each in value]
    return value, []


def _counted(table: Table, rows: list[_Choices]) -> list[_Choices]:
    """Print how many questions have how many choices, if they differ."""
    counts = Counter(len(row.texts) for row in rows)
    if len(counts) > 1:
        parts = (f"{count} in {rows:,} questions" for count, rows in sorted(counts.items()))
        say(f"{table.source}: the numbers of choices differ ({', '.join(parts)})")
    return rows


def _columns_of(choices: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """Return the first choices, the second ones and so on; missing ones are not empty."""
    most = max(map(len, choices))
    return [
        [row[number] if number < len(row) else "-" for row in choices] for number in range(most)
    ]


def _indices(
    table: Table, column: str, choices: Sequence[_Choices], names: Sequence[str]
) -> list[int]:
    """Return the labels of a column as indices of the choices; `names` are columns of choices.

    Raises:
        BadInputError: A label is not the label, the index, the letter or the column of a choice.
    """
    indices = []
    rows = zip(table.locations, table.names(column, NO_LABEL), choices, strict=True)
    for location, label, row in rows:
        count = len(row.texts)
        letters = string.ascii_uppercase[:count]
        valid = dict(zip(row.labels, range(count), strict=False))
        if not valid:
            forms = (map(str, range(count)), letters, names[:count])
            valid = {name: n for form in forms for n, name in enumerate(form)}
        index = valid.get(label, valid.get(label.upper()))
        if index is None:
            values = ", ".join(row.labels) or f"0 to {count - 1}, or A to {letters[-1]}"
            hidden = "; the labels of this data set are hidden" * (label == "-1")
            raise BadInputError(
                f"{location}: label {label!r} is not a choice{hidden}; write {values}"
            )
        indices.append(index)
    return indices
