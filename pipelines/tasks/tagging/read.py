"""Read sentences with tags.

    NAME.jsonl, .json, .parquet, …    {"tokens": [...], "tags": [...]} or, without tags,
    FOLDER[:SPLIT], tfds:NAME:SPLIT   {"text": ...} a row; see `pipelines.tasks.tables.read`
    NAME.txt                          without tags: a text per line, a blank line between documents
    NAME.csv, tables in .tsv, .txt    a row per sentence or word; see `text_tables`
    others, with tags .txt too        CoNLL columns; see `conll`

Files may be compressed, or at a URL. Tokens are used unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.arrow import folder_and_split
from pipelines.data.sources.locations import File, is_folder
from pipelines.data.sources.numbered_lines import lines, position
from pipelines.tasks.tables import read as tables
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.tables.table import check_ids
from pipelines.tasks.tagging.column_names import begins_table
from pipelines.tasks.tagging.conll import are_columns, read_columns
from pipelines.tasks.tagging.records import read_rows
from pipelines.tasks.tagging.sentence import Sentence, split_words
from pipelines.tasks.tagging.tag_names import named
from pipelines.tasks.tagging.text_tables import read_text_table
from pipelines.tasks.task import Columns

_ROWS = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
_SAMPLED = 100  # lines
_TABBED = (".tsv", ".txt")
_SCHEME = re.compile(r"(?:tfds|arrow|hf):(?!//)")


def read_sentences(
    source: str,
    columns: Columns,
    labeled: bool,
    tag_names: str = "",
    bad_rows: BadRows = STOP,
) -> list[Sentence]:
    """Read the sentences of a file or data set, in their order; some may have no words.

    Args:
        source: A file or data set; see above.
        columns: Numbers of CoNLL columns, from 1, or names of fields; empty = the usual ones.
        labeled: Require tags. Otherwise tags are ignored.
        tag_names: File with the names of tags that are numbers; see `read_names`.
        bad_rows: What to do with rows and sentences that cannot be read.

    Raises:
        BadInputError: It cannot be read, has no words, or two sentences have the same id.
    """
    if columns.pair:
        raise BadInputError(
            f"tagging has no pairs of texts; remove data.columns.pair ({columns.pair!r})"
        )
    suffix = File(source, 0).content_suffix
    if suffix == ".csv" or (suffix in _TABBED and _is_table(source, suffix)):
        table = tables.read(source, Columns(), bad_rows)
        sentences = read_text_table(table, columns, labeled, tag_names)
    elif suffix in _ROWS or _SCHEME.match(source) or is_folder(folder_and_split(source)[0]):
        table = tables.read(source, Columns(), bad_rows)
        sentences = read_rows(table, columns, labeled, tag_names)
    elif suffix == ".txt" and not labeled and not _is_conll(source, columns):
        sentences = list(_text_lines(source))
    else:
        sentences = read_columns(source, columns, labeled, bad_rows)
        if labeled and tag_names:
            sentences = named(sentences, source, tag_names, "")
    if not any(sentence.tokens for sentence in sentences):
        raise BadInputError(f"{source} has no words; check that it is the right file")
    check_ids((sentence.id, sentence.where) for sentence in sentences)
    return sentences


def _is_table(source: str, suffix: str) -> bool:
    first = [line for _, line in islice(lines(source), _SAMPLED)]
    return (suffix != ".txt" or "\t" in "".join(first[:1])) and begins_table(first)


def _is_conll(source: str, columns: Columns) -> bool:
    """Return whether a .txt file without labels has CoNLL columns; they must be chosen."""
    if not are_columns([line for _, line in lines(source)], columns):
        return False
    if not columns.text:
        raise BadInputError(
            f"{source} has CoNLL columns, but .txt files are plain text; rename the file to .conll,"
            " or set columns.text to the number of the column of the words"
        )
    return True


def _text_lines(source: str) -> Iterator[Sentence]:
    document = count = 0
    for number, line in lines(source):
        if not line.strip():
            document += 1
            continue
        words, starts = split_words(line)
        yield Sentence(
            str(count), words, None, line, starts, document, source, position(source, number)
        )
        count += 1
