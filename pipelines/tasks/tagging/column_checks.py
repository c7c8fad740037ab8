"""Checks of CoNLL columns that would be read without an error, but wrongly."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.table import option
from pipelines.tasks.tagging import schemes
from pipelines.tasks.tagging.bio_tags import OUTSIDE
from pipelines.tasks.tagging.column_names import TAGS, WORDS, is_header

_FRACTION = re.compile(r"[01]?\.[0-9]+")


def header_columns(rows: Sequence[Sequence[str]]) -> tuple[str, str] | None:
    """Return the numbers of the columns of words and tags, if the first row is a header.

    Args:
        rows: The cells of the lines that are not blank.
    """
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not is_header(header):
        return None
    token, tag = (
        next(header.index(name) for name in usual if name in header) for usual in (WORDS, TAGS)
    )
    if any(len(row) > tag and row[tag] == rows[0][tag] for row in rows[1:]):
        return None  # a tag
    return str(token + 1), str(tag + 1)


def check_separator(source: str, rows: Sequence[Sequence[str]]) -> None:
    """Refuse columns between commas or semicolons.

    Raises:
        BadInputError: Each first cell ends with one.
    """
    for sign, name in ((",", "commas"), (";", "semicolons")):
        if len(rows) > 1 and all(len(row) > 1 and row[0].endswith(sign) for row in rows):
            raise BadInputError(
                f"{source} has {name} between its columns; separate them by tabs or spaces alone"
            )


def check_tags(source: str, rows: Sequence[Sequence[str]]) -> None:
    """Refuse a last column that cannot contain the tags of the words in the first.

    Raises:
        BadInputError: The tags are in the first column, or the last has fractions, or lines have
            whole sentences.
    """
    first, last = {row[0].strip() for row in rows}, {row[-1].strip() for row in rows}
    width = len(rows[0])
    if width > 2 and all(map(_FRACTION.fullmatch, last)):
        raise BadInputError(
            f"{source}: column {width}, the last, has fractions such as {rows[0][-1]}, and no tags;"
            f" choose the column of the tags, counted from 1, with {option('label', 'NUMBER')}"
        )
    scheme = schemes.recognize(first) if OUTSIDE in first and len(first) > 1 < width else None
    if scheme and not scheme.strays and schemes.recognize(last) is None:
        raise BadInputError(
            f"{source}: column 1 has the tags, such as {rows[0][0].strip()!r:.40}; choose the"
            f" columns with {option('text', str(width))} and {option('label', '1')}"
        )
    sentences = [len(row[0].split()) == len(row[-1].split()) > 1 for row in rows]
    if width > 1 and 2 * sum(sentences) > len(rows):
        raise BadInputError(
            f"{source} has a sentence per line, and no line that names the columns; begin the file"
            " with such a line: tokens, a tab, tags"
        )
