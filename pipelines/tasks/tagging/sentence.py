"""Sentences for tagging, and the words of a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.errors import BadInputError

_IGNORED = "-100"  # the target without a loss in PyTorch
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
        where: File and line, or row, of the first token, for messages.
        token_lines: Line of each token, if they are on separate lines.
    """

    id: str
    tokens: list[str]
    tags: list[str] | None
    text: str
    starts: list[int]
    document: int
    source: str
    where: str
    token_lines: Sequence[int] = ()

    def location(self, token: int) -> str:
        """Return file, line and text of a token, for messages."""
        lines = self.token_lines
        where = f"{self.source}, line {lines[token]:,}" if lines else self.where
        return f"{where}, {self.tokens[token]!r}"


def refuse_pieces(tag: Any, location: str) -> None:
    """Refuse a tag of Hugging Face's data after tokenization, which has no words any more.

    Raises:
        BadInputError: The tag is -100.
    """
    if str(tag) == _IGNORED:
        raise BadInputError(
            f"{location} has the tag {tag}, which marks further pieces of words and special tokens"
            " after tokenization; use the data before tokenization, with a tag for each word"
        )


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


def joined(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """Return tokens as a text, and the start of each."""
    starts, position = [], 0
    for token in tokens:
        starts.append(position)
        position += len(token) + 1
    return " ".join(tokens), starts
