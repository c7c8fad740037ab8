"""Rows with named columns."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.task import Record

_SHOWN = 60  # characters of the name of a column
_SAMPLED_ROWS = 1000
_CATEGORIES = 50  # a column with more different values is not one of categories
_LONG = 4  # words of a text; names of categories have fewer
_RARE = 0.05  # of the rows: texts may be absent in the others
# Ideographs, kana, hangul and Thai, Lao, Burmese, Khmer: several of them are several words.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff\uac00-\ud7af]")


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Attributes:
        source: The file or data set.
        columns: Names of the columns.
        rows: Column -> value; JSON objects may lack columns.
        locations: File and line, or number, of each row.
        class_names: Column -> its classes, if the data set lists them.
        bad_rows: What to do with rows that cannot be used.
        numbers: Number of each row, from 0, among those of the file; empty if all were read.
        hint: What to do if there is no column of a usual name, with a leading semicolon.
    """

    source: str
    columns: list[str]
    rows: list[Record]
    locations: list[str]
    class_names: dict[str, list[str]]
    bad_rows: BadRows = STOP
    hint: str = ""
    numbers: Sequence[int] = ()

    def column(self, requested: str, usual: Sequence[str], name: str) -> str:
        """Return the `requested` column, or else the first of the `usual` ones that exists.

        Args:
            requested: Its name; may be empty.
            usual: Names to try if it is empty.
            name: Field of `Columns`, for the message.

        Raises:
            BadInputError: There is no such column.
        """
        if requested in self.columns:
            return requested
        if not requested and (found := next(filter(None, map(self.named, usual)), "")):
            return found
        names = ", ".join(each[:_SHOWN] for each in self.columns)
        missing = repr(requested) if requested else f"called {', '.join(usual)}"
        raise BadInputError(
            f"{self.source} has no column {missing}; its columns are {names}; choose one with"
            f" {option(name, 'NAME')}{self.hint}"
        )

    def named(self, usual: str) -> str:
        """Return the column with a usual name, such as Label of label; empty if there is none."""
        if usual in self.columns:
            return usual
        return next((name for name in self.columns if name.lower() == usual), "")

    def texts(self, column: str) -> list[str]:
        """Return the texts of a column.

        Raises:
            BadInputError: A text is missing, is not a text, or is not valid Unicode.
        """
        return [
            checked(row.get(column), column, location)
            for location, row in zip(self.locations, self.rows, strict=True)
        ]

    def has_text(self, column: str) -> bool:
        """Return whether a column looks like text: several words, in values that rarely repeat.

        Values that repeat are names of categories, unless they are long or many. Lists of sentences
        are text, too. The trees of SNLI and MNLI (``sentence1_parse``) repeat a text that is read.
        """
        values = [text_in(row.get(column)) for row in self.rows[:_SAMPLED_ROWS]]
        given = [value for value in values if value]
        counts = Counter(value for value in given if words(value) > 1)
        if column.endswith("_parse"):
            return False
        once = sum(count == 1 for count in counts.values())
        if once > 1 and once >= _RARE * len(values):  # other rows may have no second text
            return True
        if len(counts) < 2 or 2 * counts.total() < len(given):
            return False
        is_long = sum(map(words, given)) >= _LONG * len(given)
        return is_long or len(counts) > _CATEGORIES or 2 * len(counts) >= len(given)

    def names(self, column: str, remedy: str = "fill it in, or remove the row") -> list[str]:
        """Return the labels or ids of a column, without surrounding spaces.

        Args:
            column: Its name.
            remedy: For a missing value.

        Raises:
            BadInputError: A value is missing, or is neither a text nor a number.
        """
        names = []
        for location, row in zip(self.locations, self.rows, strict=True):
            value = row.get(column)
            if value is None or value != value:  # NaN, as pandas writes missing numbers
                raise BadInputError(f"{location}: {column!r} is missing; {remedy}")
            if isinstance(value, int | float):
                value = json.dumps(value)  # true, not Python's True
            name = checked(value, column, location).strip()
            if not name:
                raise BadInputError(f"{location}: {column!r} is empty; {remedy}")
            names.append(name)
        return names

    def ids(self, column: str) -> list[str]:
        """Return the ids of the rows, from `column`, from a column called id, or numbers from 0.

        A column called id that identifies something else than rows, such as authors, is not used.

        Raises:
            BadInputError: There is no column of that name, or two rows have the same id.
        """
        numbers = list(map(str, self.numbers or range(len(self.rows))))
        if not column and "id" not in self.columns:
            return numbers
        try:
            names = self.names(self.column(column, ("id",), "id"))
            check_ids(zip(names, self.locations, strict=True))
            return names
        except BadInputError as error:
            if column:
                raise
            say(f"{error}: the numbers of the rows, from 0, are the ids")
            return numbers

    def others(self, used: Mapping[str, str]) -> list[str]:
        """Return the columns that are not among the `used` ones."""
        return [name for name in self.columns if name not in used]

    def report(self, used: Mapping[str, str]) -> None:
        """Print which columns are read, and which are ignored.

        Args:
            used: Name -> what the column is read as; names that do not exist are left out.
        """
        read = [f"{kind} {name!r}" for name, kind in used.items() if name in self.columns]
        others = self.others(used)
        rest = f"; ignored: {', '.join(others)}" if others else ""
        say(f"{self.source}: {', '.join(read)}{rest}")

    def warn_of_empty(self, *columns: Sequence[str]) -> None:
        """Print a warning if rows have an empty text."""
        empty = [
            location
            for location, texts in zip(self.locations, zip(*columns, strict=True), strict=True)
            if not all(map(str.strip, texts))
        ]
        if empty:
            first = empty[0].removeprefix(f"{self.source}, ")
            say(
                f"{self.source}: {len(empty):,} of {len(self.rows):,} rows have an empty text"
                f" (first: {first}); they are used anyway"
            )


def check_ids(ids: Iterable[tuple[str, str]]) -> None:
    """Check that ids, each with its location, are unique.

    Raises:
        BadInputError: Two are equal.
    """
    first: dict[str, str] = {}
    for name, location in ids:
        if name in first:
            raise BadInputError(
                f"{location} has the same id {name!r} as {first[name]}; make ids unique"
            )
        first[name] = location


def checked(value: Any, column: str, location: str) -> str:
    """Return `value` if it is a text of valid Unicode.

    Raises:
        BadInputError: It is not.
    """
    if isinstance(value, str) and not HALF_CHARACTER.search(value):
        return value
    problem = f"is not text but {json.dumps(value, default=str)[:60]}"
    if value is None:
        problem = "is missing"
    elif isinstance(value, str):
        problem = "contains an unpaired surrogate (one of \\ud800 to \\udfff); remove it"
    raise BadInputError(f"{location}: {column!r} {problem}")


def words(text: str) -> int:
    """Count the words with a letter; two characters of an unspaced script are one.

    A text with more digits than letters is a date or a number, without words.
    """
    if sum(map(str.isdigit, text)) >= sum(map(str.isalpha, text)):
        return 0
    spaced = _UNSPACED.sub(" ", text).split()
    unspaced = (len(_UNSPACED.findall(text)) + 1) // 2
    return unspaced + sum(any(map(str.isalpha, word)) for word in spaced)


def text_in(value: Any) -> str:
    """Return the text of a value, without spaces around it; sentences of a list are joined."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        sentences = [item for item in value if isinstance(item, str) and words(item) > 1]
        return " ".join(sentences)
    return value.strip() if isinstance(value, str) else ""


def option(name: str, value: str) -> str:
    """Return the option that sets a field of `Columns`, for messages."""
    value = shlex.quote(value)
    return f"--data.columns.{name} {value} (predict: --columns.{name} {value})"
