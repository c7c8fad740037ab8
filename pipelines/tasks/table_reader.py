"""Examples with one or two texts and a label, from tables and data sets.

    FILE.csv                     a header line; quoted fields may contain line breaks
    FILE.tsv                     a header line; no quoting, as in the files of GLUE
    FILE.jsonl                   a JSON object per line
    tfds:NAME[/CONFIG]:SPLIT     a data set of tensorflow_datasets

Files are UTF-8. If `Columns` names no column, the first of the usual names below that exists is
used. A table with both columns of a pair is one of pairs, unless ``Columns.text`` names a column.
If another column looks like text, it might be the other half of a pair, so it must be named or
excluded: half of a pair would be learned without a sign.
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
from pipelines.data.sources.locations import readable
from pipelines.data.sources.numbered_lines import position, records
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.tasks.task import Columns, Record

PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("query", "passage"),
    ("text", "pair"),
    ("text", "text_pair"),
    ("text1", "text2"),
)
SINGLES = tuple(dict.fromkeys(("text", "sentence", *(first for first, _ in PAIRS))))
NO_PAIR = "none"  # the value of `Columns.pair` for single texts beside another column of text
LABELS = ("label", "class", "category", "sentiment", "label-coarse")

_SAMPLED_ROWS = 1000
_FIELD_LIMIT = 2**31 - 1  # characters; the default of the csv module is 131,072


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
        columns: Names of the columns.
        rows: Column -> value; JSON objects may lack columns.
        locations: File and line, or number, of each row.
        class_names: Column -> its classes, if the data set lists them.
    """

    source: str
    columns: list[str]
    rows: list[Record]
    locations: list[str]
    class_names: dict[str, list[str]]

    def column(self, requested: str, usual: Sequence[str], option: str) -> str:
        """Return the `requested` column, or else the first of the `usual` ones that exists.

        Args:
            requested: Its name; may be empty.
            usual: Names to try if it is empty.
            option: Field of `Columns`, for the message.

        Raises:
            BadInputError: There is no such column.
        """
        for name in [requested] if requested else usual:
            if name in self.columns:
                return name
        missing = repr(requested) if requested else f"called {', '.join(usual)}"
        raise BadInputError(
            f"{self.source} has no column {missing}; its columns are {', '.join(self.columns)};"
            f" choose one with columns.{option}"
        )

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
        """Return whether a column looks like text: values of several words that rarely repeat.

        The trees of SNLI and MNLI (``sentence1_parse``) repeat a text that is read.
        """
        values = [row.get(column) for row in self.rows[:_SAMPLED_ROWS]]
        words = [value for value in values if isinstance(value, str) and " " in value.strip()]
        distinct = len(set(words))
        is_tree = column.endswith("_parse")
        return not is_tree and distinct > 1 and 2 * distinct >= len(values)

    def names(self, column: str) -> list[str]:
        """Return the labels or ids of a column, without surrounding spaces.

        Raises:
            BadInputError: A value is missing, or is neither a text nor a number.
        """
        names = []
        for location, row in zip(self.locations, self.rows, strict=True):
            value = row.get(column)
            if isinstance(value, int | float):
                value = json.dumps(value)  # true, not Python's True
            name = checked(value, column, location).strip()
            if not name:
                raise BadInputError(
                    f"{location}: {column!r} is empty; fill it in or remove the row"
                )
            names.append(name)
        return names

    def ids(self, column: str) -> list[str]:
        """Return the ids of the rows, from `column`, from a column called id, or numbers from 0.

        Raises:
            BadInputError: There is no such column, or two rows have the same id.
        """
        if not column and "id" not in self.columns:
            return list(map(str, range(len(self.rows))))
        ids = self.names(self.column(column, ("id",), "id"))
        first: dict[str, str] = {}
        for location, name in zip(self.locations, ids, strict=True):
            if first.setdefault(name, location) is not location:
                raise BadInputError(
                    f"{location}: {first[name]} has the same id {name!r}; change one of them, or"
                    " rename the column"
                )
        return ids

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


def examples(
    table: Table, columns: Columns, labeled: bool, labels: Sequence[str] = LABELS
) -> list[Example]:
    """Make examples of the rows of a table.

    Args:
        table: From `read`.
        columns: Names of the columns.
        labeled: Require labels. Otherwise labels are ignored.
        labels: Usual names of the label column.

    Raises:
        BadInputError: A value is missing. The message names the line or column.
    """
    first, second = text_columns(table, columns)
    label = table.column(columns.label, labels, "label") if labeled else columns.label
    report_columns(table, first, second, columns, label)
    texts = table.texts(first)
    pairs = table.texts(second) if second else [""] * len(texts)
    table.warn_of_empty(texts, *([pairs] if second else []))
    names, order = [""] * len(texts), {}
    if labeled:
        names = table.names(label)
        order = {name: rank for rank, name in enumerate(table.class_names.get(label, ()))}
    ids = table.ids(columns.id)
    return [
        Example(*row, rank=order.get(row[3], 0))
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
    for first, second in () if columns.pair else PAIRS:
        if first in table.columns and second in table.columns:
            return first, second
    return table.column("", SINGLES, "text"), ""


def report_columns(table: Table, first: str, second: str, columns: Columns, label: str) -> None:
    """Print which columns are read.

    Args:
        table: The table.
        first: The column of the text.
        second: The column of the second text; may be empty.
        columns: What the user named.
        label: The column of the labels; may be empty.

    Raises:
        BadInputError: A column that is not read looks like the second text.
    """
    used = {first: "text", second: "pair", label: "label", columns.id or "id": "id"}
    ignored = [name for name in table.columns if name not in used]
    if not (second or columns.pair) and (other := next(filter(table.has_text, ignored), None)):
        raise BadInputError(
            f"{table.source}: {first!r} is the text, but {other!r} looks like text, too; if it"
            f" is the second text of each pair, set columns.pair to {other!r}; for single texts,"
            f" set columns.pair to {NO_PAIR!r}"
        )
    read = ", ".join(f"{kind} {name!r}" for name, kind in used.items() if name in table.columns)
    rest = f"; ignored: {', '.join(ignored)}" if ignored else ""
    say(f"{table.source}: {read}{rest}")


def read(source: str) -> Table:
    """Read a table with at least one row.

    Raises:
        BadInputError: It cannot be read.
    """
    if source.startswith("tfds:"):
        table = _read_data_set(source)
    else:
        suffix = Path(source).suffix.lower()
        if suffix not in (".csv", ".tsv", ".jsonl"):
            raise BadInputError(
                f"{source}: unknown file type; use .csv, .tsv or .jsonl, or a data set,"
                " tfds:NAME:SPLIT"
            )
        table = _read_json(source) if suffix == ".jsonl" else _read_csv(source, suffix)
    if not table.rows:
        raise BadInputError(f"{source} has no rows")
    return table


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


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        BadInputError: It cannot be read, or has another encoding. The message has the remedy.
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


def _read_csv(source: str, suffix: str) -> Table:
    text = read_text(Path(source))
    quoted = suffix == ".csv"
    csv.field_size_limit(_FIELD_LIMIT)
    lines = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="," if quoted else "\t",
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    records, locations, first_line = [], [], 1
    try:
        for record in lines:
            if record:  # not a blank line
                records.append(record)
                locations.append(f"{source}, line {first_line}")
            first_line = lines.line_num + 1
    except csv.Error as error:
        raise BadInputError(
            f"{source}, line {first_line}: {error}; double the quotes inside a quoted field"
        ) from None
    if not records:
        raise BadInputError(f"{source} is empty; the first line must name the columns")
    return _table(source, records, locations, quoted)


def _table(source: str, records: list[list[str]], locations: list[str], quoted: bool) -> Table:
    header = [name.strip() for name in records[0]]
    if duplicate := next((name for name in header if header.count(name) > 1), None):
        raise BadInputError(f"{locations[0]}: two columns are called {duplicate!r}; rename one")
    for location, record in zip(locations, records, strict=True):
        if len(record) != len(header):
            remedy = "quote fields that contain a comma" if quoted else "remove tabs inside fields"
            raise BadInputError(
                f"{location} has {len(record)} columns, but the header has {len(header)}"
                f" ({', '.join(header)}); {remedy}"
            )
    rows = [dict(zip(header, record, strict=True)) for record in records[1:]]
    return Table(source, header, rows, locations[1:], {})


def _read_json(source: str) -> Table:
    numbers, rows = [], []
    for number, record in records(Path(source)):
        numbers.append(number)
        rows.append(record)
    columns = dict.fromkeys(name for row in rows for name in row)
    locations = [position(Path(source), number) for number in numbers]
    return Table(source, list(columns), rows, locations, {})


def _read_data_set(source: str) -> Table:
    data = read_split(source)
    locations = [f"{source}, example {number}" for number in range(len(data.rows))]
    return Table(source, data.features, data.rows, locations, data.class_names)
