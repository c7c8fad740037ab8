"""Label sets of the rows of a table, in one column:

    JSON list            ["joy", "love"], [2, 7]; [] without labels
    JSON object          {"joy": 1, "anger": 0}
    0 or 1 per label     [0, 1, 0], if all lists have the same length and only 0 and 1
    text                 joy|love, joy;love or joy, love; <joy><love>; "['joy', 'love']", as pandas
                         writes lists to CSV; empty without labels

One rule is chosen for all rows of a column, never row by row.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.labels import first_names
from pipelines.tasks.tables.literals import LITERAL, list_in
from pipelines.tasks.tables.table import Table, checked, option

WHOLE = "none"  # the separator of labels that are never split
_SEPARATORS = ("|", ";", ",")  # to try, in this order
_ASKED = {"|": "|", ";": ";", ",": "comma", "/": "/", " ": "space"}  # to ask about, if others are
_NO_VALUE = {"nan", "NaN", "NaT", "None", "NULL", "<NA>"}  # as programs write a missing value
_NAMED = {"space": None, "tab": "\t", "comma": ","}  # None: any white space
_MOST = 30_000  # labels

FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
WORDS = {"false": False, "true": True}
YES_NO = FLAGS | WORDS
_NUMBER = re.compile(r"[0-9]{1,9}")
_QUOTED = re.compile(r"""[\[({]\s*['"]""")  # the beginning of a list of texts
_ANGLES = re.compile(r"(?:<[^<>]+>)+")


@dataclass(frozen=True)
class Names:
    """The labels of a file.

    Attributes:
        names: In the order of the data set, of the columns or of the alphabet.
        complete: Labels that no row has are among them, because the file lists all labels.
        detected: The columns of the labels were found by their values.
        positions: The labels have no names but their numbers in vectors of 0 and 1.
    """

    names: tuple[str, ...]
    complete: bool = False
    detected: bool = False
    positions: bool = False


Sets = list[tuple[str, ...] | None]  # of each row; None if nobody labeled it


def written(value: Any) -> str:
    """Return a value as the text that a CSV file has in its place."""
    if isinstance(value, str):
        return value.strip().lower()
    return json.dumps(value, default=str).lower()


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
    texts = [text for row in table.rows if isinstance(text := row.get(column), str)]
    if texts and not separator and not any(map(LITERAL.match, texts)):
        _ask_about_combined(table, column, found)
    in_order = sorted(found, key=int if all(map(_NUMBER.fullmatch, found)) else str)
    return Names(tuple(in_order)), sets


def _split_texts(table: Table, column: str, values: list[Any], separator: str) -> list[Any]:
    """Replace texts, and single values, by lists."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    split: Any = None
    quoted = any(map(_QUOTED.match, texts))
    if texts and not separator and (quoted or all(map(LITERAL.fullmatch, texts))):
        split = list_in
        say(f"{table.source}: {column!r} has lists written as text")
    elif texts and not separator and all(map(_ANGLES.fullmatch, texts)):
        say(f"{table.source}: labels of {column!r} are between < and >")
        split = re.compile(r"<([^<>]+)>").findall
    elif texts:
        if not separator:
            _refuse_missing(table, column, values)
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


def _refuse_missing(table: Table, column: str, values: Sequence[Any]) -> None:
    for location, value in zip(table.locations, values, strict=True):
        if isinstance(value, str) and value.strip() in _NO_VALUE:
            raise BadInputError(
                f"{location}: {column!r} is {value.strip()}, as programs write a missing value;"
                " remove the row, or empty the value if there is no label; if this is a label, set"
                " --options.separator to the sign between labels, or to none"
            )


def _ask_about_combined(table: Table, column: str, found: set[str]) -> None:
    """Print a question if labels look like several labels with a sign between them.

    Their parts are labels, too, or most labels are combinations of few parts.
    """
    for sign, option_value in _ASKED.items():
        split = {name: [p.strip() for p in name.split(sign)] for name in found if sign in name}
        parts = {part for of in split.values() for part in of}
        certain = [name for name, of in split.items() if found.issuperset(of)]
        if not certain and (2 * len(split) <= len(found) or len(parts) >= len(found)):
            continue
        example = min(certain or split)
        say(
            f"{table.source}: is {example!r} of {column!r} one label? If {sign!r} separates labels,"
            f" as in {len(split):,} of {len(found):,} names, write it in every row, and add"
            f" --options.separator {shlex.quote(option_value)}"
        )
        return


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
            sign = written(flag)
            if sign not in YES_NO:
                raise BadInputError(
                    f"{location}: {column!r}: the label {str(name)[:40]!r} has the value"
                    f" {sign[:40]}, not 0 or 1"
                )
            flags[_text(name, column, location)] = YES_NO[sign]
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
    positions = not names
    names = names or list(map(str, range(count)))
    sets: Sets = []
    for location, value in zip(table.locations, values, strict=True):
        if -1 in value and set(value) != {-1}:
            raise BadInputError(f"{location}: {column!r} has a value of -1, not 0 or 1")
        of = tuple(name for name, item in zip(names, value, strict=True) if item == 1)
        sets.append(None if -1 in value else of)
    return Names(tuple(names), complete=True, positions=positions), sets


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
            raise BadInputError(
                f"{location}: label {wrong!r} is not one of the names ({first_names(names)})"
            )
