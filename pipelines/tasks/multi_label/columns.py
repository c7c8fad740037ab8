"""Columns of labels, and label sets of the rows of a table with a column of 0 and 1 per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.multi_label.labels import FLAGS, WORDS, YES_NO, Names, Sets, written
from pipelines.tasks.tables.examples import PAIRS, SINGLES
from pipelines.tasks.tables.table import Table, option

COLUMNS = (
    *("labels", "label", "tags", "topics", "genres", "emotions"),
    *("categories", "category", "classes", "class"),
)
_INDEX = {"id", "idx", "index", "unnamed: 0", "(column 1)"}  # columns that are never a label
_NOT_LABELED = {"-1", "-1.0"}
_MISSING = {"", "null", "nan", "none"}
_ABSENT = {*_NOT_LABELED, "", "null"}  # of a row that nobody labeled
_NEARLY = 0.75  # of the values are 0 or 1, so that the others may be mistakes


def label_columns(table: Table, requested: str, others: Sequence[str]) -> tuple[list[str], bool]:
    """Find the columns of the labels.

    Args:
        table: The table.
        requested: Name of one column, or of several, separated by commas; empty = by the usual
            names, or else all columns with only 0 and 1.
        others: Columns that are not labels.

    Returns:
        The columns, and True if each is a label. Without any, the list is empty.

    Raises:
        BadInputError: A requested column is missing.
    """
    if requested:
        names = [requested]
        if requested not in table.columns and "," in requested:
            names = [name.strip() for name in requested.split(",")]
        names = [table.column(name, (), "label") for name in dict.fromkeys(names) if name]
        # A column with a usual name contains labels, also if there are only "0" and "1".
        one = names[0].lower() not in COLUMNS and _has_only(table, names[0], (FLAGS, WORDS))
        return names, len(names) > 1 or one
    usual = [name for name in map(table.named, COLUMNS) if name and name not in others]
    if usual:
        return usual[:1], False
    candidates = _candidates(table, others)
    for kinds in ((FLAGS,), (WORDS,)):
        if names := [name for name in candidates if _has_only(table, name, kinds)]:
            return names, True
    return [], False


def _candidates(table: Table, others: Sequence[str]) -> list[str]:
    never = {*_INDEX, *SINGLES, *chain.from_iterable(PAIRS)}
    return [name for name in table.columns if name.lower() not in never and name not in others]


def check_ignored(table: Table, found: Sequence[str], others: Sequence[str]) -> None:
    """Refuse to ignore a column of nearly 0 and 1, or of fractions, beside detected labels.

    Args:
        table: The table.
        found: The columns of labels that were detected; may be empty.
        others: Columns that are not labels.

    Raises:
        BadInputError: There is one. Its name, first other value and line are in the message.
    """
    words = bool(found) and _has_only(table, found[0], (WORDS,))
    flags = WORDS if words else FLAGS
    for name in _candidates(table, others):
        if name in found:
            continue
        values = [written(row.get(name)) for row in table.rows]
        if not _may_be_flags(values, flags):
            continue
        wrong = next(n for n, value in enumerate(values) if value not in {*flags, *_NOT_LABELED})
        raise BadInputError(
            f"{table.locations[wrong]}: {name!r} is {_shown(table.rows[wrong].get(name))}, not"
            f" {' or '.join(list(flags)[:2])}; if it is a label, correct the value (round fractions"
            f" to 0 or 1); if not, name the columns of the labels with {option('label', 'A,B')}"
        )


def _may_be_flags(values: Sequence[str], flags: Mapping[str, bool]) -> bool:
    given = [value for value in values if value not in {*_MISSING, *_NOT_LABELED}]
    if not given:
        return False
    if sum(value in flags for value in given) >= _NEARLY * len(given):
        return True
    return flags is FLAGS and all(map(_is_fraction, given))


def _is_fraction(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _shown(value: Any) -> str:
    return "empty" if written(value) in _MISSING else repr(str(value)[:40])


def _has_only(table: Table, column: str, kinds: Sequence[Mapping[str, bool]]) -> bool:
    values = {written(row.get(column)) for row in table.rows}
    flags = {flag for kind in kinds for flag in kind}
    return not values.isdisjoint(flags) and values <= flags | _NOT_LABELED


def sets_of_flags(table: Table, columns: Sequence[str], detected: bool) -> tuple[Names, Sets]:
    """Return the labels of columns with 0 or 1.

    Raises:
        BadInputError: Another value.
    """
    sets: Sets = []
    for location, row in zip(table.locations, table.rows, strict=True):
        signs = {name: written(row.get(name)) for name in columns}
        if all(value in _ABSENT for value in signs.values()):
            sets.append(None)
            continue
        if wrong := next((name for name, value in signs.items() if value not in YES_NO), None):
            raise BadInputError(
                f"{location}: {wrong!r} is {_shown(row.get(wrong))}, not 0 or 1; round"
                f" fractions to 0 or 1, or choose the columns with {option('label', 'A,B')}"
            )
        sets.append(tuple(name for name, value in signs.items() if YES_NO[value]))
    return Names(tuple(columns), complete=True, detected=detected), sets
