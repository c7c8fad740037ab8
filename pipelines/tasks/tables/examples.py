"""Examples of one or two texts and a label, from tables.

If `Columns` names no column, the first of the usual names below that exists is used, in any case of
its letters. A table with both columns of a pair is one of pairs, unless ``Columns.text`` names a
column. If another column looks like text, it might be the other half of a pair, so it must be
named or excluded: half of a pair would be learned without a sign.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.labels import NO_LABEL
from pipelines.tasks.tables.labels import labeled as with_labels
from pipelines.tasks.tables.table import Table, option, text_in
from pipelines.tasks.task import Columns

PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("query", "passage"),
    ("text", "pair"),
    ("text", "text_pair"),
    ("text1", "text2"),
    ("#1 string", "#2 string"),  # MRPC
)
SINGLES = tuple(
    dict.fromkeys(
        (
            *("text", "sentence", *(first for first, _ in PAIRS)),
            *("review", "comment_text", "content", "tweet", "utterance"),
        )
    )
)
# Names of the second text of a pair, which may have a single word, or be the same in all rows.
_SECOND = re.compile(
    r"(text|sentence|question|query|title|s|seq|sequence)[_ ]?(2|b)|answers?|context|document|reply"
    r"|response|passage|paragraph|evidence|claim|hypothesis|text_pair|pair"
)
NO_PAIR = "none"  # the value of `Columns.pair` for single texts beside another column of text
LABELS = (
    "label",
    "gold_label",  # SNLI and MNLI, beside the labels of single annotators
    "is_duplicate",  # QQP
    "quality",  # MRPC
    "class",
    "category",
    "sentiment",
    "label-coarse",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One or two texts.

    Attributes:
        id: Unique.
        text: The text, or the first text of a pair.
        pair: The second text; empty = none.
        label: As in the file; empty without labels.
        where: File and line, for messages.
        rank: Index of the label in a data set with ordered classes.
        columns: Names of the columns of text and pair; empty if it is not from a table.
    """

    id: str
    text: str
    pair: str = ""
    label: str = ""
    where: str = ""
    rank: int = 0
    columns: tuple[str, ...] = field(default=(), compare=False)


def examples_of(
    table: Table,
    columns: Columns,
    labeled: bool,
    labels: Sequence[str] = LABELS,
    more: Sequence[str] = (),
    *,
    are_values: bool = False,
) -> list[Example]:
    """Make examples of the rows of a table.

    Args:
        table: From `read`.
        columns: Names of the columns.
        labeled: Require labels. Otherwise labels are ignored.
        labels: Usual names of the label column.
        more: Columns that the task reads by itself.
        are_values: Labels are numbers to learn, of which -1 may be one.

    Raises:
        BadInputError: A value is missing. The message names the line or column.
    """
    first, second = text_columns(table, columns)
    label = columns.label
    if labeled:
        label = table.column(columns.label, labels, "label")
        table = with_labels(table, label, are_values)
    report_columns(table, first, second, columns, label, more)
    read = (first, second) if second else (first,)
    texts = table.texts(first)
    pairs = table.texts(second) if second else [""] * len(texts)
    table.warn_of_empty(texts, *([pairs] if second else []))
    names, order = [""] * len(texts), {}
    if labeled:
        names = table.names(label, NO_LABEL)
        order = {name: rank for rank, name in enumerate(table.class_names.get(label, ()))}
    ids = table.ids(columns.id)
    return [
        Example(*row, rank=order.get(row[3], 0), columns=read)
        for row in zip(ids, texts, pairs, names, table.locations, strict=True)
    ]


def texts(example: Example) -> dict[str, str]:
    """Return the one or two texts of an example, for `Sample.inputs`."""
    return {"text": example.text} | ({"pair": example.pair} if example.pair else {})


def text_columns(table: Table, columns: Columns) -> tuple[str, str]:
    """Return the columns of the first and second text; the second is empty for single texts.

    Raises:
        BadInputError: The table lacks a column.
    """
    pair = ""
    if columns.pair and columns.pair != NO_PAIR:
        pair = table.column(columns.pair, (), "pair")
    if columns.text:
        return table.column(columns.text, (), "text"), pair
    if pair:
        return table.column("", [name for name in SINGLES if name != pair], "text"), pair
    for names in () if columns.pair else PAIRS:
        first, second = map(table.named, names)
        if first and second:
            return first, second
    return table.column("", SINGLES, "text"), ""


def report_columns(
    table: Table,
    first: str,
    second: str,
    columns: Columns,
    label: str,
    more: Sequence[str] = (),
) -> None:
    """Print which columns are read; stop if one that is not read may belong to a pair.

    Args:
        table: The table.
        first: The column of the text.
        second: The column of the second text; may be empty.
        columns: What the user named.
        label: The column of the labels; may be empty.
        more: Columns that the task reads by itself.

    Raises:
        BadInputError: A column that is not read looks like the second text.
    """
    used = {first: "text", second: "pair", label: "label", columns.id or "id": "id"}
    used |= dict.fromkeys(more, "also")
    others = [name for name in table.others(used) if _may_be_pair(table, name)]
    if others and not (second or columns.pair):
        other = others[0]
        raise BadInputError(
            f"{table.source}: {first!r} is read as text, but {other!r} looks like text, too; if it"
            f" is the second text of each pair, add {option('pair', other)}; for single texts,"
            f" add {option('pair', NO_PAIR)}"
        )
    table.report(used)


def _may_be_pair(table: Table, column: str) -> bool:
    name = column.lower()
    if name in LABELS:
        return False
    by_name = _SECOND.fullmatch(name) and any(text_in(row.get(column)) for row in table.rows)
    return bool(by_name) or table.has_text(column)
