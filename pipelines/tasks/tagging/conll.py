"""Reader of CoNLL columns: a word per line, a blank line between sentences.

Columns are separated by tabs or else by spaces. ``-DOCSTART-`` lines, ``# newdoc`` and ``#begin
document`` begin a document. By default the first column is the word and the last the tag, except
in these formats:

    CoNLL-U, CoNLL-X    10 columns, the first numbers the words: word 2, tag 4 (part of speech);
                        lines of multiword tokens (1-2) and empty nodes (1.1) are skipped
    GermEval            4 columns, the first numbers the words: word 2, tag 3 (outer entities)
    CoNLL-2012          after #begin document: word 4, tag 11 (named entities)
    WikiANN             words begin with their language (en:), which is removed

Lines that begin with # before a sentence are comments, unless they have the columns of a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.numbered_lines import lines, position
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.tables.table import option
from pipelines.tasks.tagging import schemes
from pipelines.tasks.tagging.column_checks import check_separator, check_tags, header_columns
from pipelines.tasks.tagging.sentence import Sentence, joined, refuse_pieces
from pipelines.tasks.task import Columns

DOCUMENT_MARK = "-DOCSTART-"

_BEGIN, _END = "#begin document", "#end document"
_NEW_DOCUMENT = re.compile(rf"#\s*newdoc\b|{_BEGIN}")
_KEYWORD = re.compile(r"#\s+(?:newdoc|newpar|[\w.:-]+\s+=)(?:\s|$)")  # of comments of CoNLL-U
_NUMBER = re.compile(r"[0-9]+(?P<extra>[-.][0-9]+)?")
_LANGUAGE = re.compile(r"[a-z][a-z-]+:(?=.)")


class _LineError(BadInputError):
    """A line that cannot be read.

    Attributes:
        position: Of the line; see `position`.
    """

    def __init__(self, source: str, line: int, problem: str) -> None:
        self.position = position(source, line)
        super().__init__(f"{source}, line {line} {problem}")


@dataclass
class _Block:
    """A sentence: its rows of cells, their lines, and the number of its document."""

    document: int
    rows: list[list[str]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    @property
    def width(self) -> int:
        return len(self.rows[0])


def read_columns(
    source: str, columns: Columns, labeled: bool, bad_rows: BadRows = STOP
) -> list[Sentence]:
    """Read the sentences of a file; print the columns, and what is skipped.

    Args:
        source: The file; see `lines`.
        columns: Numbers of columns, from 1.
        labeled: Require tags. Otherwise tags are ignored.
        bad_rows: What to do with sentences that have a bad line.

    Raises:
        BadInputError: A line lacks a column, or the format is unclear.
    """
    if columns.id:
        raise BadInputError(f"{source}: CoNLL columns have no ids; remove data.columns.id")
    content = list(lines(source))
    skipped: Counter[str] = Counter()
    content, header = _without_header(content, skipped)
    blocks = _blocks(content, skipped)
    if not blocks:
        return []
    if is_numbered := _is_numbered(blocks):
        blocks = _without_extra_rows(blocks, skipped)
    is_conll_2012 = blocks[0].width >= 12 and any(line.startswith(_BEGIN) for _, line in content)
    token, tag = header or ("1", str(blocks[0].width))
    if is_conll_2012:
        token, tag = "4", "11"
    elif is_numbered and not header:
        token, tag = "2", _usual_label(blocks)
    _check(source, blocks, labeled and (token, tag) == ("1", str(blocks[0].width)), columns)
    are_chosen = bool(columns.text) and (bool(columns.label) or not labeled)
    token, tag = columns.text or token, (columns.label or tag) if labeled else ""
    if labeled and not tag:
        raise BadInputError(
            f"{source} has {blocks[0].width} columns, and the first numbers the words; choose the"
            f" column of the tags, counted from 1, with {option('label', 'NUMBER')}"
        )
    width = 0 if is_conll_2012 or are_chosen else blocks[0].width
    sentences = _sentences(source, blocks, width, token, tag, bad_rows)
    rest = ", ".join(
        f"{count:,} {name}{'s' * (count > 1)}" for name, count in skipped.items() if count
    )
    if blocks[0].width > 2 or rest:
        tags = f", column {tag} the tag" if tag else ""
        say(f"{source}: column {token} is the word{tags}" + (f"; skipped: {rest}" if rest else ""))
    if not any(block.document for block in blocks):
        sentences = [replace(s, document=number) for number, s in enumerate(sentences)]
    return _without_language(source, sentences) if sentences else []


def _without_header(
    content: list[tuple[int, str]], skipped: Counter[str]
) -> tuple[list[tuple[int, str]], tuple[str, str] | None]:
    """Return the lines after a header, and the columns that it names; see `header_columns`."""
    written = [(number, line) for number, line in content if line.strip()]
    header = header_columns([_cells(line) for _, line in written])
    if header:
        content = content[content.index(written[0]) + 1 :]
        skipped["header line"] += 1
    return content, header


def _check(source: str, blocks: Sequence[_Block], are_usual: bool, columns: Columns) -> None:
    """Refuse lines that are no columns, or whose tags are not in the usual ones."""
    rows = [row for block in blocks for row in block.rows]
    check_separator(source, rows)
    if are_usual and not (columns.text or columns.label):
        check_tags(source, rows)


def are_columns(content: Sequence[str], columns: Columns) -> bool:
    """Return whether lines are CoNLL columns and not text, to explain a wrong file name.

    Args:
        content: Lines of a file.
        columns: A chosen column of the word makes single words columns.
    """
    if any(line.startswith(DOCUMENT_MARK) for line in content):
        return True
    words = [line for line in content if line.strip() and line[0] != "#"]
    rows = [_cells(line) for line in words]
    widths = {len(row) for row in rows}
    if widths == {1}:
        return columns.text == "1"
    if len(rows) < 2 or len(widths) > 1:
        return False
    if all("\t" in line and " " not in line for line in words):
        return True
    last = {row[-1] for row in rows}
    scheme = schemes.recognize(last)
    return scheme is not None and not scheme.strays and max(map(len, last)) > 2


def _blocks(content: Sequence[tuple[int, str]], skipped: Counter[str]) -> list[_Block]:
    """Return the sentences of numbered lines; count comments in `skipped`."""
    words = [line for _, line in content if line.strip() and line[0] != "#"]
    has_tabs = any("\t" in line for line in words)
    widths = {len(_cells(line)) for line in words}
    block, document = _Block(0), 0
    blocks = [block]
    for number, line in content:
        cells = _cells(line)
        is_blank = not any(map(str.strip, cells))
        is_comment = line.startswith((_BEGIN, _END)) or (
            not block.rows and _is_comment(line, widths, has_tabs)
        )
        if is_comment:
            skipped["comment line"] += 1
        if _NEW_DOCUMENT.match(line) if is_comment else line.lstrip().startswith(DOCUMENT_MARK):
            document += 1
        elif not (is_blank or is_comment):
            block.rows.append(cells)
            block.numbers.append(number)
            continue
        block = _Block(document)
        blocks.append(block)
    return [block for block in blocks if block.rows]


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]


def _is_comment(line: str, widths: set[int], has_tabs: bool) -> bool:
    """Return whether a line before a sentence is a comment, and not the word #.

    Args:
        line: The line.
        widths: Numbers of columns of the lines of words.
        has_tabs: Tabs separate these columns.
    """
    if not line.startswith("#"):
        return False
    width = len(_cells(line)) if not has_tabs or "\t" in line else 1
    return width not in widths or _KEYWORD.match(line) is not None


def _is_numbered(blocks: Sequence[_Block]) -> bool:
    """Return whether the first of at least three columns numbers the words of each sentence."""
    for block in blocks:
        ids = [_NUMBER.fullmatch(row[0]) for row in block.rows if len(row) > 2]
        plain = [int(match[0]) for match in ids if match and not match["extra"]]
        first = min(plain, default=0)
        if None in ids or len(ids) < len(block.rows):
            return False
        if plain != list(range(first, first + len(plain))):
            return False
    return True


def _without_extra_rows(blocks: Sequence[_Block], skipped: Counter[str]) -> list[_Block]:
    """Remove the lines of CoNLL-U that are no words: multiword tokens and empty nodes."""
    kept = []
    for block in blocks:
        ids = [row[0] for row in block.rows]
        skipped["multiword token"] += sum("-" in number for number in ids)
        skipped["empty node"] += sum("." in number for number in ids)
        is_word = [number.isdigit() for number in ids]
        rows, numbers = compress(block.rows, is_word), compress(block.numbers, is_word)
        kept.append(_Block(block.document, list(rows), list(numbers)))
    return [block for block in kept if block.rows]


def _usual_label(blocks: Sequence[_Block]) -> str:
    """Return the number of the column of the tag, if the first numbers the words; may be empty."""
    width = blocks[0].width
    if width == 4:
        outer = {row[2] for block in blocks for row in block.rows if len(row) == 4}
        return "4" if schemes.recognize(outer) is None else "3"
    return {3: "3", 10: "4"}.get(width, "")


def _sentences(
    source: str, blocks: Sequence[_Block], width: int, token: str, tag: str, bad_rows: BadRows
) -> list[Sentence]:
    """Return the sentences of blocks with `width` columns; 0 = each has as many as it begins with.

    Raises:
        BadInputError: A line lacks a column.
    """
    sentences, bad = [], []
    for number, block in enumerate(blocks):
        try:
            _check_width(source, block, width or block.width)
            sentences.append(_sentence(source, number, block, token, tag))
        except _LineError as error:
            if not bad_rows.skip:
                raise
            bad.append(error.position)
    bad_rows.check(source, bad, len(blocks))
    return sentences


def _check_width(source: str, block: _Block, width: int) -> None:
    for number, row in zip(block.numbers, block.rows, strict=True):
        if len(row) != width:
            remedy = "separate the columns of all lines by tabs or spaces"
            if row[0].startswith("#"):
                remedy = "move comments to the beginning of a sentence"
            raise _LineError(
                source,
                number,
                f"has {len(row)} columns, but the lines before have {width}:"
                f" {' '.join(row)!r:.80}; {remedy}",
            )


def _sentence(source: str, number: int, block: _Block, token: str, label: str) -> Sentence:
    line = block.numbers[0]
    token_column = _column(token, block.width, source, line)
    tokens = [row[token_column].strip(" ") for row in block.rows]
    tags = None
    if label:
        tag_column = _column(label, block.width, source, line)
        if tag_column == token_column:
            problem = f"has no tag beside {tokens[0]!r}; add the tag after a tab or space"
            raise _LineError(source, line, problem)
        tags = [row[tag_column].strip(" ") for row in block.rows]
    for row, word in enumerate(tokens):
        if not word or (tags is not None and not tags[row]):
            missing = "tag" if word else "token"
            raise _LineError(source, block.numbers[row], f"has no {missing}; add it")
        refuse_pieces(tags[row] if tags else "", position(source, block.numbers[row]))
    text, starts = joined(tokens)
    where = position(source, line)
    return Sentence(
        str(number), tokens, tags, text, starts, block.document, source, where, block.numbers
    )


def _column(number: str, width: int, source: str, line: int) -> int:
    if not (re.fullmatch(r"[0-9]{1,9}", number) and 1 <= int(number) <= width):
        raise _LineError(
            source,
            line,
            f"has {width} columns, but data.columns names {number!r:.40}; use a number from 1 to"
            f" {width}",
        )
    return int(number) - 1


def _without_language(source: str, sentences: list[Sentence]) -> list[Sentence]:
    """Remove the language before every word, as in WikiANN, and print it."""
    match = _LANGUAGE.match(sentences[0].tokens[0])
    if not match or not all(
        token.startswith(match[0]) and token != match[0] for s in sentences for token in s.tokens
    ):
        return sentences
    say(f"{source}: every word begins with {match[0]!r}, which is removed")
    plain = []
    for sentence in sentences:
        tokens = [token.removeprefix(match[0]) for token in sentence.tokens]
        text, starts = joined(tokens)
        plain.append(replace(sentence, tokens=tokens, text=text, starts=starts))
    return plain
