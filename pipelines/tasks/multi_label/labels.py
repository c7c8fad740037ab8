"""Label sets of the rows of a table.

Labels are in one column, or there is a column with 0 or 1 for each label:

    JSON list            ["joy", "love"], [2, 7]; [] without labels
    JSON object          {"joy": 1, "anger": 0}
    0 or 1 per label     [0, 1, 0], if all lists have the same length and only 0 and 1
    text                 joy|love, joy;love or joy, love; <joy><love>; "['joy', 'love']", as pandas
                         writes lists to CSV; empty without labels

One rule is chosen for all rows of a column, never row by row.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.examples import PAIRS, SINGLES
from pipelines.tasks.tables.table import Table, checked, option

COLUMNS = (
    *("labels", "label", "tags", "topics", "genres", "emotions"),
    *("categories", "category", "classes", "class"),
)
WHOLE = "none"  # the separator of labels that are never split
_SEPARATORS = ("|", ";", ",")  # to try, in this order
_NAMED = {"space": None, "tab": "\t", "comma": ","}  # None: any white space
_INDEX = {"id", "idx", "index", "unnamed: 0", "(column 1)"}  # columns that are never a label
_MOST = 30_000  # labels
_MOST_LISTED = 10

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
_WORDS = {"false": False, "true": True}
_YES_NO = _FLAGS | _WORDS
_ABSENT = ("-1", "-1.0", "", "null")  # of a row that nobody labeled
_LITERAL = re.compile(r"[\[({].*[\])}]", re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,9}")
_QUOTED = re.compile(r"""[\[({]\s*['"]""")  # the beginning of a list of texts
_ANGLES = re.compile(r"(?:<[^<>]+>)+")
_QUOTES_APART = re.compile(r"""(?<=['"])\s+(?=['"])""")  # an array of NumPy has no commas


@dataclass(frozen=True)
class Names:
    """The labels of a file.

    Attributes:
        names: In the order of the data set, of the columns or of the alphabet.
        complete: Labels that no row has are among them, because the file lists all labels.
        detected: The columns of the labels were found by their values.
    """

    names: tuple[str, ...]
    complete: bool = False
    detected: bool = False


Sets = list[tuple[str, ...] | None]  # of each row; None if nobody labeled it


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
        one = names[0].lower() not in COLUMNS and _has_only(table, names[0], (_FLAGS, _WORDS))
        return names, len(names) > 1 or one
    usual = [name for name in map(table.named, COLUMNS) if name and name not in others]
    if usual:
        return usual[:1], False
    never = {*_INDEX, *SINGLES, *chain.from_iterable(PAIRS)}
    candidates = [
        name for name in table.columns if name.lower() not in never and name not in others
    ]
    for kinds in ((_FLAGS,), (_WORDS,)):
        if names := [name for name in candidates if _has_only(table, name, kinds)]:
            return names, True
    return [], False


def _has_only(table: Table, column: str, kinds: Sequence[Mapping[str, bool]]) -> bool:
    values = {_written(row.get(column)) for row in table.rows}
    flags = {flag for kind in kinds for flag in kind}
    return not values.isdisjoint(flags) and values <= flags | {"-1", "-1.0"}


def _written(value: Any) -> str:
    """Return a value as the text that a CSV file has in its place."""
    if isinstance(value, str):
        return value.strip().lower()
    return json.dumps(value, default=str).lower()


def sets_of_flags(table: Table, columns: Sequence[str], detected: bool) -> tuple[Names, Sets]:
    """Return the labels of columns with 0 or 1.

    Raises:
        BadInputError: Another value.
    """
    sets: Sets = []
    for location, row in zip(table.locations, table.rows, strict=True):
        written = {name: _written(row.get(name)) for name in columns}
        if all(value in _ABSENT for value in written.values()):
            sets.append(None)
            continue
        if wrong := next((name for name, value in written.items() if value not in _YES_NO), None):
            raise BadInputError(
                f"{location}: {wrong!r} is {str(row.get(wrong))[:40]!r}, not 0 or 1; round"
                f" fractions to 0 or 1, or choose the columns with {option('label', 'A,B')}"
            )
        sets.append(tuple(name for name, value in written.items() if _YES_NO[value]))
    return Names(tuple(columns), complete=True, detected=detected), sets


def sets_of_column(
    table: Table, column: str, separator: str, names: Sequence[str]
) -> tuple[Names, Sets]:
    """Return the labels in a column.

    Args:
        table: The table.
        column: Its name.
        separator: Of labels in a text; empty = detect it, `WHOLE` = none.
        names: Names of labels that are numbers; may be empty.

    Raises:
        BadInputError: A value is not a list of labels.
    """
    names = names or table.class_names.get(column, ())
    values = [row.get(column) for row in table.rows]
    values = _split_texts(table, column, values, separator)
    for location, value in zip(table.locations, values, strict=True):
        if not isinstance(value, list | dict):
            raise BadInputError(
                f"{location}: {column!r} is {json.dumps(value, default=str)[:40]}, not a list of"
                " labels; write [] if there is none"
            )
    if any(isinstance(value, dict) for value in values):
        return _of_objects(table, column, values)
    if _are_vectors(values):
        return _of_vectors(table, column, values, names)
    sets: Sets = []
    for location, value in zip(table.locations, values, strict=True):
        named = [_name(item, column, location, names) for item in value]
        sets.append(tuple(dict.fromkeys(named)))
    if repeated := sum(len(value) > len(of or ()) for value, of in zip(values, sets, strict=True)):
        say(f"{table.source}: {repeated:,} rows repeat a label; it counts once")
    if names:
        _check_known(table, sets, names)
        return Names(tuple(names), complete=True), sets
    found = {name for of in sets for name in of or ()}
    if len(found) > _MOST:
        raise BadInputError(
            f"{table.source}: {column!r} has {len(found):,} different labels; choose the column of"
            f" the labels with {option('label', 'NAME')}"
        )
    in_order = sorted(found, key=int if all(map(_NUMBER.fullmatch, found)) else str)
    return Names(tuple(in_order)), sets


def _split_texts(table: Table, column: str, values: list[Any], separator: str) -> list[Any]:
    """Replace texts, and single values, by lists."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    split: Any = None
    quoted = any(map(_QUOTED.match, texts))
    if texts and not separator and (quoted or all(map(_LITERAL.fullmatch, texts))):
        split = _of_literal
        say(f"{table.source}: {column!r} has lists written as text")
    elif texts and not separator and all(map(_ANGLES.fullmatch, texts)):
        say(f"{table.source}: labels of {column!r} are between < and >")
        split = re.compile(r"<([^<>]+)>").findall
    elif texts:
        if not separator:
            separator = next((s for s in _SEPARATORS if any(s in text for text in texts)), WHOLE)
            if separator != WHOLE:
                say(f"{table.source}: labels of {column!r} are separated by {separator!r}")
        sign = _NAMED.get(separator, separator)

        def split(text: str) -> list[str]:
            parts = [text] if separator == WHOLE else text.split(sign)
            return [part.strip() for part in parts if part.strip()]

    results: list[Any] = []
    for location, value in zip(table.locations, values, strict=True):
        if isinstance(value, str):
            try:
                results.append(split(checked(value, column, location)) if value.strip() else [])
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                raise BadInputError(
                    f"{location}: {column!r} is not a list: {value[:40]!r}; write it as in"
                    ' ["a", "b"]'
                ) from None
        else:
            results.append([value] if type(value) in (int, float) else value)
    return results


def _of_literal(text: str) -> list[Any] | dict[Any, Any]:
    """Read a list as JSON, Python or NumPy write it.

    Raises:
        ValueError: It is not one; also SyntaxError, RecursionError or MemoryError.
    """
    text = text.strip()
    if not _LITERAL.fullmatch(text):
        raise ValueError(text)
    try:
        value = json.loads(text)
    except ValueError:
        inside = text[1:-1]
        if re.fullmatch(r"[-\d.\s]+", inside):  # numbers of NumPy
            value = [float(part) for part in inside.split()]
        elif "'" in inside or '"' in inside or not inside.strip():
            # Python joins texts without a comma between them.
            value = ast.literal_eval(_QUOTES_APART.sub(", ", text))
        elif "," in inside and re.fullmatch(r"[-\d.,\s]+", inside):
            value = ast.literal_eval(text)
        else:
            value = [part.strip() for part in inside.split(",")]
    if isinstance(value, dict):
        return value
    if not isinstance(value, list | tuple | set):
        value = [value]  # (a) is not a tuple
    return sorted(value, key=str) if isinstance(value, set) else list(value)


def _of_objects(table: Table, column: str, values: Sequence[Any]) -> tuple[Names, Sets]:
    names: dict[str, None] = {}
    sets: Sets = []
    complete = True
    for location, value in zip(table.locations, values, strict=True):
        if value == []:
            sets.append(())
            continue
        if not isinstance(value, dict):
            raise BadInputError(f"{location}: {column!r} is a list, but an object in other rows")
        flags = {}
        for name, flag in value.items():
            written = _written(flag)
            if written not in _YES_NO:
                raise BadInputError(
                    f"{location}: {column!r}: the label {str(name)[:40]!r} has the value"
                    f" {written[:40]}, not 0 or 1"
                )
            flags[_text(name, column, location)] = _YES_NO[written]
        complete = complete and (not names or flags.keys() == names.keys())
        names |= dict.fromkeys(flags)
        sets.append(tuple(name for name, flag in flags.items() if flag))
    return Names(tuple(names), complete), sets


def _are_vectors(values: Sequence[list[Any]]) -> bool:
    lengths = {len(value) for value in values}
    if len(lengths) != 1 or min(lengths) < 2:
        return False
    kinds = {type(item) for value in values for item in value}
    return kinds <= {int, float, bool} and {item for v in values for item in v} <= {-1, 0, 1}


def _of_vectors(
    table: Table, column: str, values: Sequence[list[Any]], names: Sequence[str]
) -> tuple[Names, Sets]:
    count = len(values[0])
    if names and len(names) != count:
        raise BadInputError(
            f"{table.locations[0]}: {column!r} has {count} values, but there are {len(names)}"
            " names of labels"
        )
    say(f"{table.source}: {column!r} has 0 or 1 for each of {count} labels")
    names = names or list(map(str, range(count)))
    sets: Sets = []
    for location, value in zip(table.locations, values, strict=True):
        if -1 in value and set(value) != {-1}:
            raise BadInputError(f"{location}: {column!r} has a value of -1, not 0 or 1")
        of = tuple(name for name, item in zip(names, value, strict=True) if item == 1)
        sets.append(None if -1 in value else of)
    return Names(tuple(names), complete=True), sets


def _name(item: Any, column: str, location: str, names: Sequence[str]) -> str:
    """Return the name of a label in a list."""
    if isinstance(item, float) and item.is_integer():
        item = int(item)
    if type(item) is int and not names:
        return str(item)
    written = str(item) if type(item) is int else item
    known = type(item) is str and item in names
    if known or not names or not isinstance(written, str) or not _NUMBER.fullmatch(written):
        return _text(item, column, location)
    if int(written) >= len(names):
        raise BadInputError(
            f"{location}: {column!r} has the label {written}, but there are {len(names)} names,"
            " counted from 0"
        )
    return names[int(written)]


def _text(item: Any, column: str, location: str) -> str:
    name = checked(item, column, location).strip()
    if not name:
        raise BadInputError(f"{location}: {column!r} has an empty label; remove it")
    return name


def _check_known(table: Table, sets: Sets, names: Sequence[str]) -> None:
    known = set(names)
    for location, of in zip(table.locations, sets, strict=True):
        if wrong := next((name for name in of or () if name not in known), None):
            more = " …" * (len(names) > _MOST_LISTED)
            raise BadInputError(
                f"{location}: label {wrong!r} is not one of the names"
                f" ({', '.join(names[:_MOST_LISTED])}{more})"
            )
