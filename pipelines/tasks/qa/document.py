"""A context as tokens, with the mapping between its characters and its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.data.tokenizers.tokenizer import Tokenizer

# The white space of google-research/bert's run_squad.py.
_WORD = re.compile("[^ \t\r\n\u202f]+")
# Texts per call of the tokenizer. A larger block needs much memory if contexts are whole books.
_BLOCK = 10_000


@dataclass(frozen=True, eq=False)
class Document:
    """A context of N tokens. Its words, separated by white space, are encoded one by one.

    Attributes:
        context: The text.
        ids: int32 [N]: the tokens.
        starts: int32 [N]: first character of each token.
        ends: int32 [N]: one past the last character of each token. Characters that the tokenizer
            drops, such as separate accents, belong to the token before. Both arrays are sorted.
    """

    context: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, context: str, tokenizer: Tokenizer) -> Document:
        """Encode a context."""
        spans = [match.span() for match in _WORD.finditer(context)]
        word_starts, word_ends = np.array(spans, np.int32).reshape(-1, 2).T
        encodings = _encoded(tokenizer, list(dict.fromkeys(context[a:b] for a, b in spans)))
        pieces = [encodings[context[a:b]] for a, b in spans]
        sizes = np.array([len(ids) for ids, _ in pieces], np.int64)
        ids = np.concatenate([*(ids for ids, _ in pieces), np.zeros(0, np.int32)])
        offsets = np.concatenate([*(offsets for _, offsets in pieces), np.zeros((0, 2), np.int32)])
        starts, ends = (offsets + np.repeat(word_starts, sizes)[:, None]).T
        following = np.append(starts[1:], starts[:1])
        encoded = sizes > 0  # a tokenizer may drop a word
        following[np.cumsum(sizes)[encoded] - 1] = word_ends[encoded]
        return cls(context, ids, starts, np.maximum(ends, following))

    def tokens(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the first and last token that have characters of an answer.

        Other tokens of the same word are left out, as in google-research/bert. That code keeps
        the whole word if the answer encoded by itself has other tokens.

        Args:
            start: First character of the answer.
            end: One past its last character.

        Returns:
            None if the tokenizer drops the whole answer.
        """
        first = int(np.searchsorted(self.ends, start, "right"))
        last = int(np.searchsorted(self.starts, end, "left")) - 1
        return (first, last) if first <= last else None

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """Return the first and one-past-last character of the tokens `first` to `last`."""
        start, end = int(self.starts[first]), int(self.ends[last])
        return start, start + len(self.context[start:end].rstrip())


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the ids of each text, as compact int32 arrays."""
    encoded: list[np.ndarray] = []
    for start in range(0, len(texts), _BLOCK):
        block = tokenizer.encode(texts[start : start + _BLOCK])
        encoded += [np.array(ids, np.int32) for ids in block]
    return encoded


def _encoded(
    tokenizer: Tokenizer, texts: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return text -> (ids int32 [n], offsets int32 [n, 2])."""
    encoded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        for text, (ids, offsets) in zip(block, tokenizer.encode_with_offsets(block), strict=True):
            encoded[text] = np.array(ids, np.int32), np.array(offsets, np.int32).reshape(-1, 2)
    return encoded
