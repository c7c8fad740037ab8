"""Sentences from tables whose fields are text: .csv, and .tsv or .txt with a header.

    a row per sentence    tokens,tags: lists as pandas and NumPy write them, or words between
                          spaces; for prediction also text
    a row per word        sentence_id,word,tag: the id may be in the first row of a sentence only

If `Columns` names no column, the first of the usual names below that exists is used, in any case of
its letters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.literals import list_in
from pipelines.tasks.tables.table import Table, checked
from pipelines.tasks.tagging.column_names import LIST, RAW, TAGS, WORDS, numbers_sentences
from pipelines.tasks.tagging.records import read_rows
from pipelines.tasks.tagging.sentence import Sentence, joined, refuse_pieces
from pipelines.tasks.tagging.tag_names import named
from pipelines.tasks.task import Columns

_LINE = re.compile(r", line ([0-9,]+)")
FORMS = (
    "tagging reads tables with a row per sentence (columns such as tokens and tags, which contain"
    " lists) or a row per word (sentence_id, word and tag); separate CoNLL columns by tabs, in a"
    " file that ends with .conll"
)


@dataclass(frozen=True)
class _Found:
    """Names of the columns; empty if there is none."""

    words: str
    tags: str
    sentence: str

    @property
    def names(self) -> list[str]:
        """The columns of words and tags."""
        return [name for name in (self.words, self.tags) if name]

    def __str__(self) -> str:
        return f"words {self.words!r}" + (f", tags {self.tags!r}" if self.tags else "")


def read_text_table(
    table: Table, columns: Columns, labeled: bool, tag_names: str = ""
) -> list[Sentence]:
    """Make sentences of rows of texts; print the columns that are read.

    Args:
        table: The rows.
        columns: Names of the columns. Numbers are those of a CoNLL file, and do not count.
        labeled: Require tags. Otherwise tags are ignored.
        tag_names: File with the names of tags that are numbers; may be empty.

    Raises:
        BadInputError: It has another form, or a value is missing.
    """
    numbers = [key for key, name in vars(columns).items() if name.isdigit()]
    columns = replace(columns, **dict.fromkeys(set(numbers) - set(table.columns), ""))
    found = _columns(table, columns, labeled)
    are_sentences = _are_sentences(table, found)
    if found.sentence and not are_sentences:
        sentences = _by_word(table, found, bool(columns.id))
        return named(sentences, table.source, tag_names, found.tags) if tag_names else sentences
    is_raw = not labeled and found.words.lower() in RAW and not _are_lists(table, found.words)
    if not (are_sentences or is_raw):
        names = " and ".join(map(repr, found.names))
        raise BadInputError(
            f"{table.source}: there are no lists in {names}, and no sentence ids; {FORMS}"
        )
    rest = ", ".join(n for n in table.columns if n not in (*found.names, columns.id))
    ignored = f"; ignored: {rest}" if rest and not labeled else ""  # else `read_rows` prints them
    if is_raw:
        say(f"{table.source}: a row per text, {found.words!r}{ignored}")
    else:
        lists = {name: _are_lists(table, name) for name in found.names}
        kinds = ("lists" if are_lists else "texts between spaces" for are_lists in lists.values())
        kind = " and ".join(dict.fromkeys(kinds))
        say(f"{table.source}: a row per sentence ({kind}): {found}{ignored}")
        rows = [row | {n: _list(row.get(n), lists[n]) for n in found.names} for row in table.rows]
        table = replace(table, rows=rows)
    chosen = replace(columns, text=found.words, label=found.tags)
    return read_rows(table, chosen, labeled, tag_names)


def _columns(table: Table, columns: Columns, labeled: bool) -> _Found:
    """Find the columns.

    Raises:
        BadInputError: A chosen one, or one that is needed, is missing.
    """

    def chosen(name: str, usual: Sequence[str]) -> str:
        requested = getattr(columns, name)
        if requested:
            return table.column(requested, (), name)
        return next(filter(None, map(table.named, usual)), "")

    words = chosen("text", WORDS)
    tags = chosen("label", TAGS) if labeled else ""
    if not words or (labeled and not tags):
        missing = "tags" if words else "words"
        raise BadInputError(
            f"{table.source} has no column of {missing} of a usual name; its first line has"
            f" {', '.join(name[:30] for name in table.columns):.200}; {FORMS}"
        )
    others = [name for name in table.columns if name not in (words, tags)]
    sentence = columns.id and table.column(columns.id, (), "id")
    if not sentence:
        sentence = next((name for name in others if numbers_sentences(name)), "")
    return _Found(words, tags, sentence)


def _are_sentences(table: Table, found: _Found) -> bool:
    """Return whether a row is a sentence: it has lists, or several words and tags."""
    names = found.names
    if _are_lists(table, names[-1]):
        return True
    several = [all(" " in _stripped(row.get(name)) for name in names) for row in table.rows]
    # A word may contain a space.
    return any(several) if found.tags or not found.sentence else 2 * sum(several) > len(several)


def _are_lists(table: Table, column: str) -> bool:
    """Return whether half of the values of a column are lists, or written like them."""
    values = [row.get(column) for row in table.rows]
    lists = [isinstance(v, list) or bool(LIST.fullmatch(_stripped(v))) for v in values if v]
    return any(lists) and 2 * sum(lists) >= len(lists)


def _stripped(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _list(value: Any, is_literal: bool) -> Any:
    """Return the list that a text is; other values stay, and are errors of their rows."""
    if not isinstance(value, str):
        return value
    if not is_literal:
        return value.split()
    try:
        items = list_in(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
    return [int(x) if isinstance(x, float) and x.is_integer() else x for x in items]


def _by_word(table: Table, found: _Found, with_id: bool) -> list[Sentence]:
    """Group the rows of words.

    Raises:
        BadInputError: A word, tag or id is missing, or the rows of a sentence are not together.
    """
    groups: dict[str, list[int]] = {}
    current = ""
    for number, row in enumerate(table.rows):
        name = _stripped(_as_text(row.get(found.sentence)))
        if name and name != current and name in groups:
            raise BadInputError(
                f"{table.locations[number]}: the rows of sentence {name!r:.40} are not together;"
                " sort them, or give each sentence its own id"
            )
        current = name or current
        if not current:
            raise BadInputError(
                f"{table.locations[number]}: {found.sentence!r} is empty; fill it in"
            )
        groups.setdefault(current, []).append(number)
    sentences, skipped = [], []
    for count, (name, numbers) in enumerate(groups.items()):
        try:
            sentence = _sentence(table, found, count, numbers)
            sentences.append(replace(sentence, id=name) if with_id else sentence)
        except BadInputError:
            if not table.bad_rows.skip:
                raise
            skipped.append(table.locations[numbers[0]])
    table.bad_rows.check(table.source, skipped, len(groups))
    rest = ", ".join(n for n in table.columns if n not in (*found.names, found.sentence))
    say(
        f"{table.source}: a row per word: {found}, sentence {found.sentence!r};"
        f" {len(table.rows):,} words in {len(groups):,} sentences"
        + (f"; ignored: {rest}" if rest else "")
    )
    return sentences


def _sentence(table: Table, found: _Found, count: int, numbers: Sequence[int]) -> Sentence:
    def column(of: str) -> list[str]:
        texts = []
        for number in numbers:
            value = _as_text(table.rows[number].get(of))
            text = checked(value, of, table.locations[number]).strip()
            if not text:
                raise BadInputError(f"{table.locations[number]}: {of!r} is empty; fill it in")
            if of == found.tags:
                refuse_pieces(text, f"{table.locations[number]}: {of!r}")
            texts.append(text)
        return texts

    tokens = column(found.words)
    tags = column(found.tags) if found.tags else None
    text, starts = joined(tokens)
    first = table.locations[numbers[0]]
    places = [table.locations[number].removeprefix(table.source) for number in numbers]
    lines = [int(m[1].replace(",", "")) for m in map(_LINE.fullmatch, places) if m]
    where = lines if len(lines) == len(numbers) else ()
    return Sentence(str(count), tokens, tags, text, starts, count, table.source, first, where)


def _as_text(value: Any) -> Any:
    return str(value) if type(value) in (int, float) else value
