"""Examples with one or two texts and a label, from tables and data sets.

    FILE.csv                     a header line; fields may be quoted, and then hold line breaks
    FILE.tsv                     a header line; no quoting, as in the files of GLUE
    FILE.jsonl                   a JSON object per line
    tfds:NAME[/CONFIG]:SPLIT     a data set of tensorflow_datasets

Files are UTF-8. Where `Columns` names none, the usual names are tried in the order that they have
below; if a table has both of a pair, it is one of pairs, unless ``Columns.text`` names a column.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import read_split
from pipelines.data.sources.files import HALF_CHARACTER, readable
from pipelines.tasks.task import Columns, Record

PAIRS = {
    "sentence1": "sentence2",
    "question1": "question2",
    "premise": "hypothesis",
    "question": "sentence",
    "query": "passage",
    "text": "pair",
    "text1": "text2",
}
SINGLES = ("text", "sentence", *(name for name in PAIRS if name != "text"))
LABELS = ("label", "class", "category", "sentiment", "label-coarse")

_MOST_CHARACTERS = 2**31 - 1  # of a field; the csv module's own limit is 131,072


@dataclass(frozen=True, slots=True)
class Example:
    """One or two texts.

    Attributes:
        id: Tells examples apart.
        text: The text, or the first of a pair.
        pair: The second text; empty = none.
        label: As it is written; empty = none was asked for.
        where: File and line, for messages.
        rank: Place of the label among the classes of a data set that has them in an order.
    """

    id: str
    text: str
    pair: str = ""
    label: str = ""
    where: str = ""
    rank: int = 0


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Attributes:
        source: The file or data set.
        columns: Their names.
        rows: Column -> value; JSON objects may lack some.
        places: Line or number of each row.
        class_names: Column -> its classes, where a data set states them.
    """

    source: str
    columns: list[str]
    rows: list[Record]
    places: list[str]
    class_names: dict[str, list[str]]

    def column(self, given: str, usual: Sequence[str], option: str) -> str:
        """The column `given`, or the first of the `usual` ones.

        Args:
            given: Its name; may be empty.
            usual: Names to try then.
            option: Field of `Columns`, for the message.

        Raises:
            BadInputError: There is no such column.
        """
        for name in [given] if given else usual:
            if name in self.columns:
                return name
        missing = repr(given) if given else f"called {', '.join(usual)}"
        raise BadInputError(
            f"{self.source} has no column {missing}; its columns are {', '.join(self.columns)};"
            f" say which with columns.{option}"
        )

    def texts(self, column: str) -> list[str]:
        """The texts of a column.

        Raises:
            BadInputError: One is missing, is no text, or cannot be written as UTF-8.
        """
        return [
            checked(row.get(column), column, place)
            for place, row in zip(self.places, self.rows, strict=True)
        ]

    def names(self, column: str) -> list[str]:
        """The labels or ids of a column, as they are written, without spaces around them.

        Raises:
            BadInputError: One is missing, or is neither text nor a number.
        """
        found = []
        for place, row in zip(self.places, self.rows, strict=True):
            value = row.get(column)
            if isinstance(value, int | float):
                value = json.dumps(value)  # true, not Python's True
            name = checked(value, column, place).strip()
            if not name:
                raise BadInputError(
                    f"{place}: {column!r} is empty; fill it in or leave the row out"
                )
            found.append(name)
        return found

    def ids(self, column: str) -> list[str]:
        """The ids of the rows: those of `column`, or of one called id, or their numbers from 0.

        Raises:
            BadInputError: There is no such column, or an id stands there twice.
        """
        if not column and "id" not in self.columns:
            return list(map(str, range(len(self.rows))))
        ids = self.names(self.column(column, ("id",), "id"))
        first: dict[str, str] = {}
        for place, name in zip(self.places, ids, strict=True):
            if first.setdefault(name, place) is not place:
                raise BadInputError(
                    f"{place}: id {name!r} is already that of {first[name]}; make them differ, or"
                    " rename the column"
                )
        return ids

    def warn_of_empty(self, *columns: Sequence[str]) -> None:
        """Says how many rows have an empty text."""
        empty = [
            place
            for place, texts in zip(self.places, zip(*columns, strict=True), strict=True)
            if not all(map(str.strip, texts))
        ]
        if empty:
            say(
                f"{self.source}: {len(empty):,} of {len(self.rows):,} rows have an empty text, the"
                f" first is {empty[0].removeprefix(f'{self.source}, ')}; they are used as they are"
            )


def examples(
    table: Table, columns: Columns, labelled: bool, labels: Sequence[str] = LABELS
) -> list[Example]:
    """The examples of a table.

    Args:
        table: As `read` returns it.
        columns: Where to find what.
        labelled: Whether they must have labels; without, labels are ignored.
        labels: Usual names of the label's column.

    Raises:
        BadInputError: Something is missing; the message names line or column.
    """
    first, second = text_columns(table, columns)
    texts = table.texts(first)
    pairs = table.texts(second) if second else [""] * len(texts)
    table.warn_of_empty(texts, *([pairs] if second else []))
    found, order = [""] * len(texts), {}
    if labelled:
        column = table.column(columns.label, labels, "label")
        found = table.names(column)
        order = {name: rank for rank, name in enumerate(table.class_names.get(column, ()))}
    ids = table.ids(columns.id)
    return [
        Example(*row, rank=order.get(row[3], 0))
        for row in zip(ids, texts, pairs, found, table.places, strict=True)
    ]


def texts(example: Example) -> dict[str, str]:
    """The one or two texts of an example, for `Sample.given`."""
    return {"text": example.text} | ({"pair": example.pair} if example.pair else {})


def text_columns(table: Table, columns: Columns) -> tuple[str, str]:
    """The columns of the first and second text; the second is empty for single texts.

    Raises:
        BadInputError: They are not there.
    """
    pair = columns.pair and table.column(columns.pair, (), "pair")
    if columns.text:
        return table.column(columns.text, (), "text"), pair
    if pair:
        return table.column("", [name for name in SINGLES if name != pair], "text"), pair
    for first, second in PAIRS.items():
        if first in table.columns and second in table.columns:
            return first, second
    return table.column("", SINGLES, "text"), ""


def read(source: str) -> Table:
    """A table, with at least one row.

    Raises:
        BadInputError: It cannot be read.
    """
    if source.startswith("tfds:"):
        table = _read_data_set(source)
    else:
        suffix = Path(source).suffix.lower()
        if suffix not in (".csv", ".tsv", ".jsonl"):
            raise BadInputError(
                f"{source}: a table is told by its ending, .csv, .tsv or .jsonl; a data set is"
                " tfds:NAME:SPLIT"
            )
        text = read_text(Path(source))
        table = _read_json(source, text) if suffix == ".jsonl" else _read_csv(source, text, suffix)
    if not table.rows:
        raise BadInputError(f"{source} has no rows")
    return table


def checked(value: Any, column: str, place: str) -> str:
    """`value`, if it is text that can be written as UTF-8.

    Raises:
        BadInputError: It is not.
    """
    if isinstance(value, str) and not HALF_CHARACTER.search(value):
        return value
    wrong = f"is not text but {json.dumps(value, default=str)[:60]}"
    if value is None:
        wrong = "is missing"
    elif isinstance(value, str):
        wrong = "holds half of a character (one of \\ud800 to \\udfff)"
    raise BadInputError(f"{place}: {column!r} {wrong}")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        BadInputError: It cannot be read, or is in another encoding; the message says what to do.
    """
    with readable(path):
        data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadInputError(f"{path} is UTF-16; convert it: iconv -f utf-16 -t utf-8 '{path}'")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInputError(
            f"{path}, line {line} is not UTF-8: byte 0x{data[error.start]:02x}; convert it, for"
            f" example with iconv -f latin1 -t utf-8 '{path}'"
        ) from None


def _read_csv(source: str, text: str, suffix: str) -> Table:
    quoted = suffix == ".csv"
    csv.field_size_limit(_MOST_CHARACTERS)
    lines = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="," if quoted else "\t",
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    records, places, begin = [], [], 1
    try:
        for record in lines:
            if record:  # not a blank line
                records.append(record)
                places.append(f"{source}, line {begin}")
            begin = lines.line_num + 1
    except csv.Error as error:
        raise BadInputError(
            f"{source}, line {begin}: {error}; double the quotes inside of a quoted field"
        ) from None
    if not records:
        raise BadInputError(f"{source} is empty; the first line names the columns")
    return _table(source, records, places, quoted)


def _table(source: str, records: list[list[str]], places: list[str], quoted: bool) -> Table:
    header = [name.strip() for name in records[0]]
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise BadInputError(f"{places[0]}: column {twice!r} is there twice")
    for place, record in zip(places, records, strict=True):
        if len(record) != len(header):
            remedy = "quote fields that hold a comma" if quoted else "no field may hold a tab"
            raise BadInputError(
                f"{place} has {len(record)} columns, the header {len(header)}"
                f" ({', '.join(header)}); {remedy}"
            )
    rows = [dict(zip(header, record, strict=True)) for record in records[1:]]
    return Table(source, header, rows, places[1:], {})


def _read_json(source: str, text: str) -> Table:
    columns: dict[str, None] = {}
    rows, places = [], []
    # Not splitlines, which also cuts where U+2028 stands inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BadInputError(f"{source}, line {number} is not a JSON object")
        columns.update(dict.fromkeys(row))
        rows.append(row)
        places.append(f"{source}, line {number}")
    return Table(source, list(columns), rows, places, {})


def _read_data_set(source: str) -> Table:
    name, _, split = source.removeprefix("tfds:").partition(":")
    if not name or not split:
        raise BadInputError(f"{source} names no split; write it as in tfds:glue/sst2:train")
    found = read_split(name, split)
    places = [f"{source}, example {number}" for number in range(len(found.rows))]
    return Table(source, found.features, found.rows, places, found.class_names)
