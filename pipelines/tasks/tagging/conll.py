"""Sentences with tags, as files and data sets hold them.

    NAME.jsonl            {"tokens": [...], "tags": [...]} or, without tags, {"text": ...} a line
    NAME.txt              without tags: a text per line, a blank line between documents
    others, with tags     CoNLL columns, separated by tabs or else by spaces: a token per line, a
    .txt too              blank line between sentences, -DOCSTART- lines between documents
    tfds:NAME:SPLIT       a TensorFlow data set, such as tfds:conll2003:train

Tokens are taken as they are. WikiANN's carry their language; ``sed 's/^en://'`` cuts it off.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import read_split
from pipelines.data.sources.files import HALF_CHARACTER, readable
from pipelines.tasks.task import Columns

_DOCUMENT_MARK = "-DOCSTART-"
_BYTE_ORDER_MARK = "\ufeff"
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Sentence:
    """Words of a sentence.

    Attributes:
        id: What tells it from others.
        tokens: The words.
        tags: As many; None where they are not known.
        text: What offsets count in: tokens joined by spaces, or the text that they were cut from.
        starts: Where each token begins in `text`.
        document: Number of the document; neighbours of the same number are of one document.
        source: File or data set.
        line: Of the file, or number of the example, that the first token is from.
        token_lines: Whether each token is on a line of its own.
    """

    id: str
    tokens: list[str]
    tags: list[str] | None
    text: str
    starts: list[int]
    document: int
    source: str
    line: int
    token_lines: bool = False

    def place(self, token: int) -> str:
        """Where a token is, for messages."""
        at = f"{self.source}, line {self.line + (token if self.token_lines else 0)}"
        return f"{at}, {self.tokens[token]!r}"


def read_sentences(source: str, columns: Columns, labelled: bool) -> list[Sentence]:
    """The sentences of a file or data set, in their order; some may have no words.

    Args:
        source: See above.
        columns: Numbers of CoNLL columns, from 1 (default: the first is the token and the last the
            tag), or names of fields.
        labelled: Whether they must have tags; without, tags are ignored.

    Raises:
        BadInputError: It cannot be read, has no word, or two sentences have the same id.
    """
    if columns.pair:
        raise BadInputError(f"tagging has no pairs of texts; leave out the column {columns.pair!r}")
    path = Path(source)
    if source.startswith("tfds:"):
        sentences = list(_data_set(source, columns, labelled))
    elif path.suffix == ".jsonl":
        sentences = list(_json_lines(path, columns, labelled))
    elif path.suffix == ".txt" and not labelled and not columns.text:
        sentences = list(_text_lines(path))
    elif path.suffix == ".json":
        raise BadInputError(f"{source}: tagging reads CoNLL columns or .jsonl, not .json")
    else:
        sentences = _columns(path, columns, labelled)
    if not any(sentence.tokens for sentence in sentences):
        raise BadInputError(f"{source} holds no word; is it the right file?")
    seen: dict[str, int] = {}
    for sentence in sentences:
        if sentence.id in seen:
            raise BadInputError(
                f"{source}, line {sentence.line}: the id {sentence.id!r} is that of line"
                f" {seen[sentence.id]} too; make them differ, or name no column of ids"
            )
        seen[sentence.id] = sentence.line
    return sentences


def split_words(text: str) -> tuple[list[str], list[int]]:
    """Words and single punctuation marks of a text, and where each begins.

    What combines with a letter (vowel signs, accents, joiners) is not a letter to Python's ``\\w``
    and would tear the words of many languages apart; it stays with what it stands between.
    """
    words: list[str] = []
    starts: list[int] = []
    for match in _WORD.finditer(text):
        piece = match[0]
        touches = bool(words) and starts[-1] + len(words[-1]) == match.start()
        if touches and (_combines(piece[0]) or _combines(words[-1][-1])):
            words[-1] += piece
        else:
            words.append(piece)
            starts.append(match.start())
    return words, starts


def _combines(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "M" or category == "Cf"


def _joined(tokens: list[str]) -> tuple[str, list[int]]:
    """Tokens as a text, and where each begins."""
    starts, position = [], 0
    for token in tokens:
        starts.append(position)
        position += len(token) + 1
    return " ".join(tokens), starts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines; only line feeds end one, since tokens may hold other separators."""
    with readable(path):
        data = path.read_bytes()
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInputError(
                f"{path}, line {number} is not UTF-8: byte 0x{line[error.start]:02x}; convert it,"
                f" for example with iconv -f latin1 -t utf-8 '{path}'"
            ) from None
        if "\0" in text:
            raise BadInputError(f"{path}, line {number} is not text: NUL byte; is it UTF-16?")
        # Files that were put together have byte order marks in the middle too.
        yield number, text.rstrip("\r").removeprefix(_BYTE_ORDER_MARK)


def _columns(path: Path, columns: Columns, labelled: bool) -> list[Sentence]:
    if columns.id:
        raise BadInputError(f"{path}: CoNLL columns have no ids; leave out the column of ids")
    sentences: list[Sentence] = []
    rows: list[list[str]] = []
    first = width = document = 0

    def finish() -> None:
        if rows:
            place = (first, len(sentences), document)
            sentences.append(_of_rows(path, rows, place, columns, labelled))
            rows.clear()

    for number, line in _lines(path):
        row = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
        if not any(map(str.strip, row)):
            finish()
        elif row[0].startswith(_DOCUMENT_MARK):
            finish()
            document += 1
        else:
            width = width or len(row)
            if len(row) != width:
                raise BadInputError(
                    f"{path}, line {number} has {len(row)} columns, those before it {width}:"
                    f" {line!r:.80}; separate columns by tabs or spaces, in every line alike"
                )
            first = first if rows else number
            rows.append(row)
    finish()
    if document:
        return sentences
    return [replace(s, document=number) for number, s in enumerate(sentences)]


def _of_rows(
    path: Path,
    rows: list[list[str]],
    place: tuple[int, int, int],
    columns: Columns,
    labelled: bool,
) -> Sentence:
    line, count, document = place
    width = len(rows[0])
    at = _column(columns.text or "1", width, f"{path}, line {line}")
    tokens = [row[at].strip(" ") for row in rows]
    tags = None
    if labelled:
        tag_at = _column(columns.label or str(width), width, f"{path}, line {line}")
        if tag_at == at:
            raise BadInputError(
                f"{path}, line {line} has no tag beside {tokens[0]!r}; tags are in a column of"
                " their own, after a tab or space"
            )
        tags = [row[tag_at].strip(" ") for row in rows]
    for number, token in enumerate(tokens):
        if not token or (tags is not None and not tags[number]):
            what = "tag" if token else "token"
            raise BadInputError(f"{path}, line {line + number} has no {what}; write one in")
    text, starts = _joined(tokens)
    return Sentence(
        str(count), tokens, tags, text, starts, document, str(path), line, token_lines=True
    )


def _column(number: str, width: int, place: str) -> int:
    if not (re.fullmatch(r"[0-9]{1,9}", number) and 1 <= int(number) <= width):
        raise BadInputError(
            f"{place} has {width} columns; {number!r:.40} is none of them; give a number from 1 to"
            f" {width}"
        )
    return int(number) - 1


def _text_lines(path: Path) -> Iterator[Sentence]:
    document = count = 0
    for number, line in _lines(path):
        if line.startswith(_DOCUMENT_MARK):
            raise BadInputError(
                f"{path}, line {number}: {_DOCUMENT_MARK} stands in CoNLL columns, but .txt is read"
                " as text; name the column of the tokens, or rename it to .conll"
            )
        if not line.strip():
            document += 1
            continue
        words, starts = split_words(line)
        yield Sentence(str(count), words, None, line, starts, document, str(path), number)
        count += 1


def _json_lines(path: Path, columns: Columns, labelled: bool) -> Iterator[Sentence]:
    count = 0
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", "it is nested too deeply")
            raise BadInputError(f"{path}, line {number} is not a JSON object: {what}") from None
        if not isinstance(record, dict):
            raise BadInputError(f"{path}, line {number} is not a JSON object: {line!r:.60}")
        yield _of_record(record, columns, labelled, str(path), number, count)
        count += 1


def _of_record(
    record: dict[str, Any], columns: Columns, labelled: bool, source: str, line: int, count: int
) -> Sentence:
    place = f"{source}, line {line}"
    name = columns.text or ("tokens" if "tokens" in record or labelled else "text")
    content = _field(record, name, place)
    tags = None
    if isinstance(content, str) and not labelled:
        text = _text(content, name, place)
        tokens, starts = split_words(text)
    else:
        tokens = _texts(content, name, place)
        text, starts = _joined(tokens)
    if labelled:
        label = columns.label or "tags"
        tags = _texts(_field(record, label, place), label, place)
        if len(tags) != len(tokens):
            raise BadInputError(
                f"{place} has {len(tokens)} tokens in {name!r} and {len(tags)} tags in {label!r};"
                " give each token one"
            )
        if not all(tags):
            raise BadInputError(f"{place}: {label!r} holds an empty tag; write one in")
    key = str(count)
    if columns.id:
        found = _field(record, columns.id, place)
        if isinstance(found, bool) or not isinstance(found, (str, int)):
            raise BadInputError(f"{place}: {columns.id!r} is neither a text nor a whole number")
        key = _text(str(found), columns.id, place)
    return Sentence(key, tokens, tags, text, starts, count, source, line)


def _field(record: dict[str, Any], name: str, place: str) -> Any:
    if name not in record:
        known = ", ".join(map(repr, record)) or "none"
        raise BadInputError(f"{place} has no field {name!r}; there are: {known:.200}; name one")
    return record[name]


def _texts(value: Any, name: str, place: str) -> list[str]:
    if not isinstance(value, list):
        raise BadInputError(f"{place}: {name!r} is not a list of texts, one per token")
    return [_text(item, name, place) for item in value]


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise BadInputError(f"{place}: {name!r} holds {value!r:.40}, which is not a text")
    if HALF_CHARACTER.search(value):
        raise BadInputError(f"{place}: {name!r} holds half of a character ({value!a:.40})")
    return value


def _data_set(spec: str, columns: Columns, labelled: bool) -> Iterator[Sentence]:
    name, _, split = spec.removeprefix("tfds:").rpartition(":")
    if not name:
        raise BadInputError(f"{spec} names no split; write, for example, {spec}:train")
    found = read_split(name, split)
    label = columns.label or ("ner" if "ner" in found.features else "tags")
    columns = replace(columns, text=columns.text or "tokens", label=label)
    for count, record in enumerate(found.rows):
        if labelled and isinstance(record.get(label), list):
            # A split without labels has none for each; they are refused as texts that are empty.
            record[label] = ["" if tag is None else tag for tag in record[label]]
        yield _of_record(record, columns, labelled, spec, count, count)
