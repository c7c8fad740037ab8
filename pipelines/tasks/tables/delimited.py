"""Tables of fields between commas, tabs or semicolons.

The file decides what separates its fields and whether they are quoted, because a ``.tsv`` of GLUE
contains stray quotes, but one of pandas quotes fields, and Excel writes semicolons in Europe.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.bad_rows import REMEDY, BadRows, report_skipped
from pipelines.tasks.tables.headers import (
    by_number,
    has_row_names,
    header_of,
    known,
    looks_like_data,
)
from pipelines.tasks.tables.table import Table
from pipelines.tasks.task import Columns

_SAMPLED = 100  # lines
_FIELD_LIMIT = 2**31 - 1  # characters; the default of the csv module is 131,072
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_QUOTED = re.compile(r'(?<![^\t\n])"((?:[^"]|"")*+)"(?![^\t\n])')  # a whole field between tabs
# QQP of GLUE has line breaks inside of some questions.
_BROKEN_LINES = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]


@dataclass(frozen=True)
class Parsed:
    """Lines that are divided into fields.

    Attributes:
        records: The fields of each line that is not blank.
        numbers: The numbers of these lines.
        bad: Numbers of lines that cannot be divided, if those are skipped.
        has_backslashes: Whether backslashes precede quotes in fields.
    """

    records: list[list[str]]
    numbers: list[int]
    bad: list[int]
    has_backslashes: bool = False

    @property
    def is_constant(self) -> bool:
        """All lines have the same number of fields, except for names of rows."""
        widths = {len(record) for record in self.records}
        return len(widths) == 1 or has_row_names(self.records)


def read_delimited(
    source: str, text: str, default: str, columns: Columns, bad_rows: BadRows
) -> Table:
    """Read a table.

    Args:
        source: The file.
        text: Its content.
        default: The separator that belongs to its suffix.
        columns: Names or numbers of the columns.
        bad_rows: What to do with lines that have more or fewer fields than the others.

    Raises:
        BadInputError: It cannot be divided into rows. The message names the line.
    """
    text = _with_line_feeds(source, text)
    declared = re.match(r"sep=(.)\n", text)  # Excel
    separator = declared[1] if declared else _separator(source, text, default)
    if declared:
        text = f"\n{text[declared.end() :]}"
    if separator == "\t" and not _is_quoted(source, text):
        parsed = _divided(text)
    else:
        parsed = _parsed(source, text, separator, bad_rows)
        if parsed.has_backslashes:
            say(f"{source}: backslashes precede quotes in fields")
    if not parsed.records:
        raise BadInputError(f"{source} is empty; the first line must name the columns")
    return _table(source, parsed, separator, columns, bad_rows)


def _with_line_feeds(source: str, text: str) -> str:
    """Return the text with one kind of line end."""
    if "\r" not in text:
        return text
    text = re.sub("\r+\n", "\n", text)
    if "\n" not in text:
        return text.replace("\r", "\n")
    if count := text.count("\r"):
        line = text.count("\n", 0, text.index("\r")) + 1
        say(
            f"{source}: {count:,} carriage returns in lines are read as spaces (first: line {line})"
        )
    return text.replace("\r", " ")


def _separator(source: str, text: str, default: str) -> str:
    """Return the separator: another than that of the suffix if line 1 has only that.

    Commas of texts do not count if every line has a tab.
    """
    lines = [line for line in text.split("\n", _SAMPLED)[:_SAMPLED] if line]
    if not lines or default == "\t" in lines[0]:
        return default
    has_tabs = all("\t" in line for line in lines) and not _is_table(source, text, default)
    if default in lines[0] and not has_tabs:
        return default
    for separator, name in _SEPARATORS.items():
        if separator not in lines[0] or separator == default:
            continue
        header = next(csv.reader([lines[0]], delimiter=separator))
        # A .tsv or .txt may have a text per line.
        has_all = default == "," and all(separator in line for line in lines)
        is_table = has_all or (default == "," and _is_table(source, text, separator))
        if any(map(known, header)) or is_table:
            say(f"{source}: its fields are separated by {name}")
            return separator
    return default


def _is_table(source: str, text: str, separator: str) -> bool:
    """Return whether all lines have the same number of fields."""
    try:
        return _parsed(source, text, separator).is_constant
    except BadInputError:
        return False


def _is_quoted(source: str, text: str) -> bool:
    """Return whether quotes enclose fields of a table with tabs, or belong to its text.

    They enclose fields if all quotes of the file do, and if the number of fields of each line, a
    doubled quote, a quoted header or a column of quoted fields proves it.
    """
    if '"' not in text:
        return False
    without_escapes = text.replace('\\"', "")  # of R
    fields = _QUOTED.findall(without_escapes)
    if not fields or '"' in _QUOTED.sub("", without_escapes):
        return False
    plain = _divided(text)
    is_doubled = any('"' in field for field in fields)
    if plain.is_constant:
        has_break = any("\t" in field or "\n" in field for field in fields)
        is_quoted = not has_break and (is_doubled or _has_quoted_column(plain.records))
    else:
        is_quoted = is_doubled or _parsed(source, text, "\t").is_constant
    meaning = "enclose fields" if is_quoted else "belong to the text"
    say(f"{source}: its quotes {meaning}")
    return is_quoted


def _has_quoted_column(records: Sequence[Sequence[str]]) -> bool:
    def quoted(field: str) -> bool:
        return len(field) > 1 and field[0] == field[-1] == '"'

    rows = records[1:]
    in_header = any(map(quoted, records[0])) and len(rows) > 0
    return in_header or (
        len(rows) > 1 and any(all(map(quoted, column)) for column in zip(*rows, strict=True))
    )


def _divided(text: str) -> Parsed:
    """Divide lines at tabs; nothing is quoted."""
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line]
    return Parsed([line.split("\t") for _, line in lines], [n for n, _ in lines], [])


def _parsed(source: str, text: str, separator: str, bad_rows: BadRows | None = None) -> Parsed:
    """Divide lines at separators that are not inside of quotes."""
    try:
        return _read_quoted(source, text, separator, None)
    except BadInputError:
        with_backslashes = _with_backslashes(source, text, separator)
        if with_backslashes is not None:
            return with_backslashes
        if bad_rows is None or not bad_rows.skip:
            raise
    return _read_quoted(source, text, separator, [])


def _with_backslashes(source: str, text: str, separator: str) -> Parsed | None:
    """Divide lines in which a backslash precedes quotes, as Spark and MySQL write them."""
    if '\\"' not in text:
        return None
    try:
        parsed = _read_quoted(source, text, separator, None, escapechar="\\", doublequote=False)
    except BadInputError:
        return None
    if not parsed.is_constant:
        return None
    return replace(parsed, has_backslashes=True)


def _read_quoted(
    source: str, text: str, separator: str, bad: list[int] | None, **options: Any
) -> Parsed:
    """Divide lines with the csv module; `bad` collects lines with wrong quotes (None: refuse)."""
    csv.field_size_limit(_FIELD_LIMIT)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **options)
    records: list[list[str]] = []
    numbers: list[int] = []
    first_line = 1
    while True:
        try:
            record = next(lines)
        except StopIteration:
            return Parsed(records, numbers, bad or [])
        except csv.Error as error:
            # A quote that is never closed encloses all following lines.
            if bad is None or "end of data" in str(error):
                raise BadInputError(
                    f"{source}, line {first_line}: {error}; double the quotes inside a quoted field"
                ) from None
            bad.append(first_line)
        else:
            if record:  # not a blank line
                records.append(record)
                numbers.append(first_line)
        first_line = lines.line_num + 1


def _table(
    source: str, parsed: Parsed, separator: str, columns: Columns, bad_rows: BadRows
) -> Table:
    locations = [f"{source}, line {number}" for number in parsed.numbers]
    header, in_file = header_of(source, parsed.records, columns)
    lines = {line: number for number, line in enumerate(sorted(parsed.numbers + parsed.bad))}
    rows, kept, skipped, broken = [], [], [f"{source}, line {n}" for n in parsed.bad], []
    numbers: list[int] = []
    lined = zip(parsed.numbers, locations, parsed.records, strict=True)
    for line, location, record in islice(lined, in_file, None):
        if len(record) == len(header):
            numbers.append(lines[line] - in_file)
            rows.append(dict(zip(header, record, strict=True)))
            kept.append(location)
        elif header == _BROKEN_LINES and len(record) < len(header):
            broken.append(location)
        elif bad_rows.skip:
            skipped.append(location)
        else:
            raise _ragged(location, record, header, separator, in_file)
    report_skipped(source, broken, "a line break in a question divides them")
    bad_rows.check(source, skipped, len(rows) + len(skipped))
    has_numbers = any(name.isdecimal() for name in (columns.text, columns.label))
    hint = ""
    if in_file and not has_numbers and (looks_like_data(header) or not any(map(known, header))):
        hint = f"; if line 1 is data, choose columns by number, from 1: {by_number(header)}"
    return Table(source, header, rows, kept, {}, bad_rows, hint, numbers)


def _ragged(
    location: str, record: list[str], header: list[str], separator: str, in_file: bool
) -> BadInputError:
    name = _SEPARATORS.get(separator, f"{separator!r}")
    if len(record) < len(header):
        remedy = "complete or remove the line; a line break in a field may have divided it"
    elif separator == "\t":
        remedy = "remove tabs inside fields"
    else:
        remedy = f"quote fields that contain {name}"
    expected = f"the header has {len(header)} ({', '.join(header):.200})"
    if not in_file:
        expected = f"most lines have {len(header)}"
    return BadInputError(
        f"{location} has {len(record)} columns, but {expected}; {remedy}, or {REMEDY}"
    )
