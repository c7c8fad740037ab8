"""Sentences from rows with named fields: JSON objects, and rows of data sets.

Words are in a list called tokens or words, and tags in a list called ner_tags, tags, or as below;
the choice is printed. Tags may be the numbers of classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.tasks.tables.table import Table, option
from pipelines.tasks.tagging.sentence import Sentence, joined, refuse_pieces, split_words
from pipelines.tasks.tagging.tag_names import named
from pipelines.tasks.task import Columns, Record

TOKENS = ("tokens", "words", "sentence")
TEXTS = ("text", "sentence")
TAGS = ("ner_tags", "ner", "tags", "labels", "pos_tags", "upos", "chunk_tags", "xpos", "pos")


def read_rows(table: Table, columns: Columns, labeled: bool, tag_names: str = "") -> list[Sentence]:
    """Make sentences of rows; print the fields that are read.

    Args:
        table: The rows.
        columns: Names of the fields; empty = the usual ones.
        labeled: Require tags. Otherwise tags are ignored.
        tag_names: File with the names of tags that are numbers; may be empty.

    Raises:
        BadInputError: A row lacks a field, or its value does not fit.
    """
    names, source = table.columns, table.source
    # Numbers are columns of the CoNLL file that the model was trained on.
    numbers = [key for key, name in vars(columns).items() if name.isdigit() and name not in names]
    columns = replace(columns, **dict.fromkeys(numbers, ""))
    lists = {name for row in table.rows for name, value in row.items() if isinstance(value, list)}
    words = columns.text or next((name for name in TOKENS if name in lists), TOKENS[0])
    usual = [name for name in TAGS if name in lists and name != words]
    usual = [name for name in usual if _have_equal_lengths(table, words, name)] or usual
    label = (columns.label or next(iter(usual), "tags")) if labeled else ""
    if labeled:
        used = [name for name in (words, label, columns.id) if name]
        choice = f"; choose others with {option('label', 'NAME')}" if len(usual) > 1 else ""
        rest = ", ".join(name for name in names if name not in used)
        if rest and set(used) <= set(names):
            say(f"{source}: reads {', '.join(map(repr, used))}; ignored: {rest}{choice}")
        _check_kinds(table, label)
        lists_of_tags = [row[label] for row in table.rows if isinstance(row.get(label), list)]
        padded = sum(
            isinstance(tag, str) and tag != tag.strip() for tags in lists_of_tags for tag in tags
        )
        if padded:
            say(f"{source}: spaces around {padded:,} tags are removed")
    sentences, skipped = [], []
    for count, (row, location) in enumerate(zip(table.rows, table.locations, strict=True)):
        # Without labels, a line may have words or a text.
        field = words if labeled else columns.text or _content(row)
        try:
            sentence = _sentence(row, location, count, field, label, columns.id)
            sentences.append(replace(sentence, source=source))
        except BadInputError:
            if not table.bad_rows.skip:
                raise
            skipped.append(location)
    table.bad_rows.check(source, skipped, len(table.rows))
    return named(sentences, source, tag_names, label) if label and tag_names else sentences


def _have_equal_lengths(table: Table, words: str, tags: str) -> bool:
    """Return whether most rows have as many tags as words; others are errors."""
    pairs = [(row.get(words), row.get(tags)) for row in table.rows]
    lengths = [(len(a), len(b)) for a, b in pairs if isinstance(a, list) and isinstance(b, list)]
    return sum(a == b for a, b in lengths) >= 0.5 * len(lengths)


def _content(record: Record) -> str:
    lists = (name for name in TOKENS if isinstance(record.get(name), list))
    return next(lists, next((name for name in TEXTS if name in record), TEXTS[0]))


def _check_kinds(table: Table, label: str) -> None:
    """Refuse tags of pieces of words, and tags of which only some are numbers."""
    first: dict[bool, tuple[str, Any]] = {}
    for location, row in zip(table.locations, table.rows, strict=True):
        value = row.get(label)
        for tag in value if isinstance(value, list) else ():
            refuse_pieces(tag, f"{location}: {label!r}")
            first.setdefault(type(tag) is int, (location, tag))
    if len(first) > 1:
        (location, number), (other, name) = first[True], first[False]
        raise BadInputError(
            f"{location}: {label!r} contains the number {number}, but {name!r:.40} in {other};"
            " write names or numbers everywhere"
        )


def _sentence(row: Record, location: str, count: int, words: str, label: str, key: str) -> Sentence:
    content = _field(row, words, location)
    tags = None
    if isinstance(content, str) and not label:
        text = _text(content, words, location)
        tokens, starts = split_words(text)
    else:
        tokens = _texts(content, words, location)
        text, starts = joined(tokens)
    if label:
        tags = _tags(_field(row, label, location), label, location)
        if len(tags) != len(tokens):
            raise BadInputError(
                f"{location} has {len(tokens)} tokens in {words!r} but {len(tags)} tags in"
                f" {label!r}; give each token one tag"
            )
    name = str(count)
    if key:
        value = _field(row, key, location)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise BadInputError(f"{location}: {key!r} is neither a text nor an integer")
        name = _text(str(value), key, location)
    return Sentence(name, tokens, tags, text, starts, count, location, location)


def _field(record: Record, name: str, location: str) -> Any:
    if name not in record:
        names = ", ".join(map(repr, record)) or "no fields"
        raise BadInputError(
            f"{location} has no field {name!r}, a list; choose one of its fields with data.columns"
            f" ({names:.200})"
        )
    return record[name]


def _tags(value: Any, name: str, location: str) -> list[str]:
    """Return tags as texts; numbers of classes become digits."""
    if isinstance(value, list):
        # A split without labels has None for each, in data sets of TensorFlow.
        value = ["" if tag is None else tag for tag in value]
        value = [str(tag) if type(tag) is int and tag >= 0 else tag for tag in value]
    tags = [tag.strip() for tag in _texts(value, name, location)]
    if not all(tags):
        raise BadInputError(f"{location}: {name!r} contains an empty tag; fill it in")
    return tags


def _texts(value: Any, name: str, location: str) -> list[str]:
    if not isinstance(value, list):
        raise BadInputError(f"{location}: {name!r} is not a list of texts, one per token")
    return [_text(item, name, location) for item in value]


def _text(value: Any, name: str, location: str) -> str:
    if not isinstance(value, str):
        raise BadInputError(f"{location}: {name!r} contains {value!r:.40}; write a string")
    if HALF_CHARACTER.search(value):
        raise BadInputError(
            f"{location}: {name!r} contains an unpaired surrogate ({value!a:.40}); remove it"
        )
    return value
