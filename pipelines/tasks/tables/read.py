"""Read a table of labeled data.

    FILE.csv                     a header line; quoted fields may contain line breaks
    FILE.tsv                     a header line; no quoting, as in the files of GLUE
    FILE.jsonl                   a JSON object per line
    tfds:NAME[/CONFIG]:SPLIT     a data set of tensorflow_datasets

Files are UTF-8.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import read_split
from pipelines.data.sources.locations import readable
from pipelines.data.sources.numbered_lines import position, records
from pipelines.tasks.tables.table import Table

_FIELD_LIMIT = 2**31 - 1  # characters; the default of the csv module is 131,072


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
