"""Rows that have no label, which is written in several ways.

None                a class of -1 in a data set that lists its classes, as in test sets of the hub
"-"                 annotators of SNLI and MNLI did not agree
-1                  beside the labels 0, 1, 2 and so on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.bad_rows import REMEDY, report_skipped
from pipelines.tasks.tables.table import Table

NO_LABEL = f"fill it in, or {REMEDY}"
_MOST_LISTED = 10  # names in a message
_NO_AGREEMENT = "-"
_INFERENCES = {"entailment", "neutral", "contradiction", "not_entailment"}


def labeled(table: Table, column: str, are_values: bool = False) -> Table:
    """Return the rows that have a label in `column`; print how many do not.

    An empty label is an error of the file, so it stays, unless bad rows are skipped.

    Args:
        table: The table.
        column: The column of the labels.
        are_values: Labels are numbers to learn, of which -1 may be one.

    Raises:
        BadInputError: No row has a label, or too many labels are empty.
    """
    values = [row.get(column) for row in table.rows]
    absent = [] if are_values else _absent(values, column)
    if column in table.class_names:
        absent.append(None)
    empty = [None, ""] if table.bad_rows.skip else []
    kept = [index for index, value in enumerate(values) if _key(value) not in [*absent, *empty]]
    if not kept:
        raise BadInputError(
            f"{table.locations[0]}: {column!r} is missing, as in all {len(values):,} rows; choose"
            " labeled data"
        )
    if len(kept) < len(values):
        reason = f"no label in {column!r}"
        places = list(zip(table.locations, map(_key, values), strict=True))
        report_skipped(table.source, [place for place, key in places if key in absent], reason)
        bad = [place for place, key in places if key in empty and key not in absent]
        table.bad_rows.check(table.source, bad, len(values), reason)
        numbers = table.numbers or range(len(values))
        table = replace(
            table,
            rows=[table.rows[index] for index in kept],
            locations=[table.locations[index] for index in kept],
            numbers=[numbers[index] for index in kept],
        )
    return table


def _key(value: Any) -> Any:
    """Return a value that can be compared: texts without spaces; 0 for lists and other objects."""
    if value != value:  # NaN
        return None
    if isinstance(value, str):
        return value.strip()
    return value if value is None or isinstance(value, int | float) else 0


def _absent(values: Sequence[Any], column: str) -> list[Any]:
    """Return the values that mean that there is no label."""
    distinct = {_key(value) for value in values}
    others = distinct - {_NO_AGREEMENT, None, ""}
    if _NO_AGREEMENT in distinct and (column == "gold_label" or (others and others <= _INFERENCES)):
        return [_NO_AGREEMENT]
    # Labels of -1, 0 and 1, and those with other negative numbers, may be sentiment.
    whole = [int(x) for x in distinct if isinstance(x, int) or (isinstance(x, str) and _is_int(x))]
    if len(whole) < len(distinct) or sorted(whole) != list(range(-1, len(whole) - 1)):
        return []
    if len(whole) > 3:
        return [x for x in distinct if int(x) == -1]
    if len(whole) == 3:
        say(f"{column!r} is -1, 0 or 1; if -1 means that there is no label, remove these rows")
    return []


def _is_int(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def listed_counts(counts: Counter[str], rows: int) -> str:
    """List labels with their counts and fractions of the rows, the most frequent first."""
    listed = [f"{label} {count:,} ({count / rows:.1%})" for label, count in counts.most_common()]
    if len(listed) > _MOST_LISTED:
        listed[_MOST_LISTED // 2 : -_MOST_LISTED // 2] = ["…"]
    return ", ".join(listed)


def first_names(names: Sequence[str], most: int = _MOST_LISTED) -> str:
    """Return the first names for a message; … stands for others."""
    return ", ".join([*names[:most], "…"] if len(names) > most else names)
