"""Usual names of columns of words and tags, in the order in which they are tried."""

from __future__ import annotations

import re
from collections.abc import Sequence

RAW = ("text", "sentence")  # also of text that is not divided into words
WORDS = ("tokens", "words", "word", "token", "form", *RAW)
TAGS = (
    *("ner_tags", "ner_tag", "ner", "tags", "tag", "labels", "label", "word_labels", "entity"),
    *("iob", "bio", "pos_tags", "upos", "chunk_tags", "xpos", "pos", "chunk"),
)
LIST = re.compile(r"\[.*\]|\(\s*['\"].*\)", re.DOTALL)
_SENTENCE = re.compile(r"(?:sentence|sent)[\W_]*(?:id|idx|index|no|num|number|nr)?[\W_]*", re.I)


def is_header(cells: Sequence[str]) -> bool:
    """Return whether a line names a column of words and one of tags."""
    names = {cell.strip().lower() for cell in cells}
    return not names.isdisjoint(WORDS) and not names.isdisjoint(TAGS)


def numbers_sentences(name: str) -> bool:
    """Return whether a name is usual for the id of a sentence, such as ``Sentence #``."""
    return _SENTENCE.fullmatch(name.strip()) is not None


def begins_table(lines: Sequence[str]) -> bool:
    """Return whether the first lines of a file begin a table between tabs, and not CoNLL columns.

    Its rows are sentences, or have the id of a sentence.
    """
    names = [name.strip().lower() for name in lines[0].split("\t")] if lines else []
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines[1:]]
    if len(names) == 1:
        return names[0] in RAW and any(" " in row[0] for row in rows)
    ids = set(filter(numbers_sentences, names))
    if ids and not (set(names) - ids).isdisjoint(WORDS):
        return True
    wide = (sum(" " in cell or bool(LIST.fullmatch(cell)) for cell in row) for row in rows)
    return is_header(names) and any(count > 1 for count in wide)
