"""A context as tokens, and the way from its characters to the tokens and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.data.tokenizers.tokenizer import Tokenizer

# The white space of google-research/bert's run_squad.py.
_WORD = re.compile("[^ \t\r\n\u202f]+")
# Texts that are encoded together: enough to be fast, and few where a context is a whole book.
_BLOCK = 10_000


@dataclass(frozen=True, eq=False)
class Document:
    """A context of N tokens: its words, cut at white space, are encoded one by one.

    Attributes:
        context: The text.
        ids: int32 [N]: the tokens.
        starts: int32 [N]: first character of each token.
        ends: int32 [N]: the character after its last; what the tokenizer drops, such as accents
            that stand alone, belongs to the token before it. Neither array ever goes down.
    """

    context: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, context: str, tokenizer: Tokenizer) -> Document:
        """Encodes a context."""
        spans = [match.span() for match in _WORD.finditer(context)]
        begins, stops = np.array(spans, np.int32).reshape(-1, 2).T
        known = _encoded(tokenizer, list(dict.fromkeys(context[a:b] for a, b in spans)))
        pieces = [known[context[a:b]] for a, b in spans]
        sizes = np.array([len(ids) for ids, _ in pieces], np.int64)
        ids = np.concatenate([*(ids for ids, _ in pieces), np.zeros(0, np.int32)])
        offsets = np.concatenate([*(offsets for _, offsets in pieces), np.zeros((0, 2), np.int32)])
        starts, ends = (offsets + np.repeat(begins, sizes)[:, None]).T
        following = np.append(starts[1:], starts[:1])
        encoded = sizes > 0  # a tokenizer may leave nothing of a word
        following[np.cumsum(sizes)[encoded] - 1] = stops[encoded]
        return cls(context, ids, starts, np.maximum(ends, following))

    def tokens(self, start: int, end: int) -> tuple[int, int] | None:
        """First and last token that share characters with an answer.

        Where a word holds more than the answer this drops the rest of it, as google-research/bert
        does. That code keeps the whole word if the answer encoded by itself has other tokens.

        Args:
            start: First character of the answer.
            end: The character after its last.

        Returns:
            None if the tokenizer leaves nothing of it.
        """
        first = int(np.searchsorted(self.ends, start, "right"))
        last = int(np.searchsorted(self.starts, end, "left")) - 1
        return (first, last) if first <= last else None

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """First and one-past-last character of the tokens `first` to `last`."""
        start, end = int(self.starts[first]), int(self.ends[last])
        return start, start + len(self.context[start:end].rstrip())


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text, int32, held in little memory."""
    found: list[np.ndarray] = []
    for start in range(0, len(texts), _BLOCK):
        block = tokenizer.encode(texts[start : start + _BLOCK])
        found += [np.array(ids, np.int32) for ids in block]
    return found


def _encoded(
    tokenizer: Tokenizer, texts: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Text -> ids int32 [n] and offsets int32 [n, 2]."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        for text, (ids, offsets) in zip(block, tokenizer.encode_with_offsets(block), strict=True):
            found[text] = np.array(ids, np.int32), np.array(offsets, np.int32).reshape(-1, 2)
    return found
