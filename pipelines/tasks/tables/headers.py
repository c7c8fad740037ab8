"""Names of the columns of a file: from its first line, by number, or those of a known layout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.examples import LABELS, NO_PAIR, PAIRS, SINGLES
from pipelines.tasks.tables.table import option
from pipelines.tasks.task import Columns

_KNOWN = {*(name for pair in PAIRS for name in pair), *SINGLES, *LABELS, "index", "idx", "score"}
# CoLA: source of the sentence, acceptable or not, the notation of the author, sentence.
_COLA = ["source", "label", "notation", "sentence"]
_COLA_FIELDS = [re.compile(pattern) for pattern in (r"[\w.-]{1,20}", "[01]", r"[^\w\s]{0,3}", ".+")]
_SAMPLED = 100  # lines
_SHOWN = 30  # characters of a value
_LONG = 4  # words of a field that is no name of a column


def header_of(
    source: str, records: Sequence[list[str]], columns: Columns
) -> tuple[list[str], bool]:
    """Return the names of the columns, and whether line 1 has them.

    Raises:
        BadInputError: Two columns have the same name.
    """
    if _are_of_cola(records):
        say(f"{source}: no header; its columns are those of CoLA: {', '.join(_COLA)}")
        return _COLA, False
    header = [name.strip() for name in records[0]]
    requested = [columns.text, columns.pair, columns.label, columns.id]
    requested = [name for name in requested if name and name != NO_PAIR]
    if numbers := [name for name in requested if name.isdecimal()]:
        return _by_number(source, header, records, requested, numbers)
    if has_row_names(records):
        header.insert(0, "")
    header = [name or f"(column {number})" for number, name in enumerate(header, start=1)]
    if duplicate := next((name for name in header if header.count(name) > 1), None):
        remedy = "rename one"
        if looks_like_data(header):
            remedy = f"if it is data, choose columns by number, from 1: {by_number(header)}"
        raise BadInputError(f"{source}, line 1: two columns are called {duplicate!r:.40}; {remedy}")
    return header, True


def known(name: str) -> bool:
    """Return whether a name is a usual one of a column."""
    return name.strip().lower() in _KNOWN


def looks_like_data(header: Sequence[str]) -> bool:
    """Return whether names of columns look like a row of data: numbers and sentences."""
    return any(len(name.split()) >= _LONG or re.fullmatch(r"[\d.,+-]+", name) for name in header)


def by_number(header: Sequence[str]) -> str:
    """Return the option for the longest field of line 1, by its number."""
    longest = max(range(len(header)), key=lambda index: len(header[index]))
    return option("text", str(longest + 1))


def has_row_names(records: Sequence[list[str]]) -> bool:
    """Return whether each line but the first begins with its number, as R writes tables."""
    width = len(records[0]) + 1
    return len(records) > 1 and all(
        len(record) == width and record[0].strip() == str(number)
        for number, record in enumerate(records[1:], start=1)
    )


def _are_of_cola(records: Sequence[list[str]]) -> bool:
    """Return whether all lines that are not ragged have the fields of CoLA."""
    whole = [record for record in records if len(record) == len(_COLA)]
    return 2 * len(whole) > len(records) and all(
        pattern.fullmatch(field)
        for record in whole
        for pattern, field in zip(_COLA_FIELDS, record, strict=True)
    )


def _by_number(
    source: str,
    header: list[str],
    records: Sequence[list[str]],
    requested: list[str],
    numbers: list[str],
) -> tuple[list[str], bool]:
    """Decide what the numbers in `requested` mean, and print it."""
    rows = records[1 : _SAMPLED + 1]
    shown = ", ".join(f"{n} {name!r:.{_SHOWN}}" for n, name in enumerate(header, start=1))
    if set(requested) <= set(header) and all(_has_letters(rows, header, n) for n in requested[:1]):
        say(f"{source}: line 1 is the header and contains {', '.join(requested)}: columns by name")
        return header, True
    names = [n for n in requested if n not in numbers and n in header]
    others = {record[i] for record in rows for i, _ in enumerate(record[: len(header)])}
    if names or any(known(name) and name not in others for name in header):
        say(f"{source}: line 1 is a header; columns by number: {shown}")
        positions = map(str, range(1, len(header) + 1))
        return [
            number if number in numbers else name or f"(column {number})"
            for number, name in zip(positions, header, strict=True)
        ], True
    say(f"{source}: no header; columns by number: {shown}")
    width = Counter(map(len, records)).most_common(1)[0][0]
    return [str(number) for number in range(1, width + 1)], False


def _has_letters(rows: Sequence[list[str]], header: list[str], name: str) -> bool:
    """Return whether most values of a column contain letters, as texts do."""
    index = header.index(name)
    values = [record[index] for record in rows if len(record) > index]
    return 2 * sum(any(map(str.isalpha, value)) for value in values) > len(values)
