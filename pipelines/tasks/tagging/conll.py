"""Reader of sentences with tags.

    NAME.jsonl            {"tokens": [...], "tags": [...]} or, without tags, {"text": ...} a line
    NAME.txt              without tags: a text per line, a blank line between documents
    others, with tags     CoNLL columns, separated by tabs or else by spaces: a token per line, a
    .txt too              blank line between sentences, -DOCSTART- lines between documents
    tfds:NAME:SPLIT       a TensorFlow data set, such as tfds:conll2003:train

Tokens are used unchanged. Those of WikiANN begin with a language; ``sed 's/^en://'`` removes it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import read_split
from pipelines.data.sources.numbered_lines import lines, records
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.tasks.task import Columns

_DOCUMENT_MARK = "-DOCSTART-"
_BYTE_ORDER_MARK = "\ufeff"
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Sentence:
    """Words of a sentence.

    Attributes:
        id: Unique.
        tokens: The words.
        tags: One per token; None without labels.
        text: The text for character offsets: the original text, or tokens joined by spaces.
        starts: First character of each token in `text`.
        document: Number of the document; neighbors with the same number are of one document.
        source: File or data set.
        line: Line in the file, or number of the example, of the first token.
        token_lines: Each token is on a separate line.
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

    def location(self, token: int) -> str:
        """Return file, line and text of a token, for messages."""
        line = self.line + (token if self.token_lines else 0)
        return f"{self.source}, line {line}, {self.tokens[token]!r}"


def read_sentences(source: str, columns: Columns, labeled: bool) -> list[Sentence]:
    """Read the sentences of a file or data set, in their order; some may have no words.

    Args:
        source: A file or data set; see above.
        columns: Numbers of CoNLL columns, from 1 (default: the first is the token and the last the
            tag), or names of fields.
        labeled: Require tags. Otherwise tags are ignored.

    Raises:
        BadInputError: It cannot be read, has no words, or two sentences have the same id.
    """
    if columns.pair:
        raise BadInputError(
            f"tagging has no pairs of texts; remove data.columns.pair ({columns.pair!r})"
        )
    path = Path(source)
    if source.startswith("tfds:"):
        sentences = list(_data_set(source, columns, labeled))
    elif path.suffix == ".jsonl":
        sentences = [
            _of_record(record, columns, labeled, source, number, count)
            for count, (number, record) in enumerate(records(path))
        ]
    elif path.suffix == ".txt" and not labeled and not columns.text:
        sentences = list(_text_lines(path))
    elif path.suffix == ".json":
        raise BadInputError(f"{source}: tagging reads CoNLL columns or .jsonl, not .json")
    else:
        sentences = _columns(path, columns, labeled)
    if not any(sentence.tokens for sentence in sentences):
        raise BadInputError(f"{source} has no words; check that it is the right file")
    first_lines: dict[str, int] = {}
    for sentence in sentences:
        if sentence.id in first_lines:
            raise BadInputError(
                f"{source}, line {sentence.line}: line {first_lines[sentence.id]} has the same id"
                f" {sentence.id!r}; change one of them, or remove data.columns.id"
            )
        first_lines[sentence.id] = sentence.line
    return sentences


def split_words(text: str) -> tuple[list[str], list[int]]:
    """Return the words and single punctuation marks of a text, and the start of each.

    Characters that combine with a letter (vowel signs, accents, joiners) do not match Python's
    ``\\w``. They stay with their neighbors; otherwise the words of many languages would be split.
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
    """Return tokens as a text, and the start of each."""
    starts, position = [], 0
    for token in tokens:
        starts.append(position)
        position += len(token) + 1
    return " ".join(tokens), starts


def _columns(path: Path, columns: Columns, labeled: bool) -> list[Sentence]:
    if columns.id:
        raise BadInputError(f"{path}: CoNLL columns have no ids; remove data.columns.id")
    sentences: list[Sentence] = []
    rows: list[list[str]] = []
    first = width = document = 0

    def finish() -> None:
        if rows:
            position = (first, len(sentences), document)
            sentences.append(_of_rows(path, rows, position, columns, labeled))
            rows.clear()

    for number, line in lines(path):
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
                    f"{path}, line {number} has {len(row)} columns, but the lines before have"
                    f" {width}: {line!r:.80}; separate the columns of all lines by tabs or spaces"
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
    position: tuple[int, int, int],
    columns: Columns,
    labeled: bool,
) -> Sentence:
    line, count, document = position
    width = len(rows[0])
    token_column = _column(columns.text or "1", width, f"{path}, line {line}")
    tokens = [row[token_column].strip(" ") for row in rows]
    tags = None
    if labeled:
        tag_column = _column(columns.label or str(width), width, f"{path}, line {line}")
        if tag_column == token_column:
            raise BadInputError(
                f"{path}, line {line} has no tag beside {tokens[0]!r}; add the tag after a tab or"
                " space"
            )
        tags = [row[tag_column].strip(" ") for row in rows]
    for number, token in enumerate(tokens):
        if not token or (tags is not None and not tags[number]):
            missing = "tag" if token else "token"
            raise BadInputError(f"{path}, line {line + number} has no {missing}; add it")
    text, starts = _joined(tokens)
    return Sentence(
        str(count), tokens, tags, text, starts, document, str(path), line, token_lines=True
    )


def _column(number: str, width: int, location: str) -> int:
    if not (re.fullmatch(r"[0-9]{1,9}", number) and 1 <= int(number) <= width):
        raise BadInputError(
            f"{location} has {width} columns, but data.columns names {number!r:.40}; use a number"
            f" from 1 to {width}"
        )
    return int(number) - 1


def _text_lines(path: Path) -> Iterator[Sentence]:
    document = count = 0
    for number, line in lines(path):
        if line.startswith(_DOCUMENT_MARK):
            raise BadInputError(
                f"{path}, line {number}: {_DOCUMENT_MARK} marks CoNLL columns, but .txt files are"
                " plain text; rename the file to .conll, or set data.columns.text"
            )
        if not line.strip():
            document += 1
            continue
        words, starts = split_words(line)
        yield Sentence(str(count), words, None, line, starts, document, str(path), number)
        count += 1


def _of_record(
    record: dict[str, Any], columns: Columns, labeled: bool, source: str, line: int, count: int
) -> Sentence:
    location = f"{source}, line {line}"
    name = columns.text or ("tokens" if "tokens" in record or labeled else "text")
    content = _field(record, name, location)
    tags = None
    if isinstance(content, str) and not labeled:
        text = _text(content, name, location)
        tokens, starts = split_words(text)
    else:
        tokens = _texts(content, name, location)
        text, starts = _joined(tokens)
    if labeled:
        label = columns.label or "tags"
        tags = _texts(_field(record, label, location), label, location)
        if len(tags) != len(tokens):
            raise BadInputError(
                f"{location} has {len(tokens)} tokens in {name!r} but {len(tags)} tags in"
                f" {label!r}; give each token one tag"
            )
        if not all(tags):
            raise BadInputError(f"{location}: {label!r} contains an empty tag; fill it in")
    key = str(count)
    if columns.id:
        value = _field(record, columns.id, location)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise BadInputError(f"{location}: {columns.id!r} is neither a text nor an integer")
        key = _text(str(value), columns.id, location)
    return Sentence(key, tokens, tags, text, starts, count, source, line)


def _field(record: dict[str, Any], name: str, location: str) -> Any:
    if name not in record:
        names = ", ".join(map(repr, record)) or "no fields"
        raise BadInputError(
            f"{location} has no field {name!r}; choose one of its fields with data.columns"
            f" ({names:.200})"
        )
    return record[name]


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


def _data_set(spec: str, columns: Columns, labeled: bool) -> Iterator[Sentence]:
    data = read_split(spec)
    label = columns.label or ("ner" if "ner" in data.features else "tags")
    columns = replace(columns, text=columns.text or "tokens", label=label)
    for count, record in enumerate(data.rows):
        if labeled and isinstance(record.get(label), list):
            # A split without labels has None for each; as empty tags they cause an error.
            record[label] = ["" if tag is None else tag for tag in record[label]]
        yield _of_record(record, columns, labeled, spec, count, count)
