"""Find combining marks that belong to the spelling of words; uncased WordPiece removes them.

BERT's lower-casing decomposes the text (NFD) and drops every nonspacing mark. On Latin, Greek and
Cyrillic letters they are accents. In other scripts they are vowels (Hindi, Bengali, Thai, Hebrew)
or parts of letters (the hamza of Arabic, the dakuten of Japanese).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

# Fewer words are quotations, as of a name in an article about its origin.
_FEW = 0.001
_SHOWN = 20  # characters of an example; Thai has no spaces
# All characters that contain such a mark are below. Variation selectors are above.
_END = 0x1F000
_DAKUTEN = "\u3099\u309a"


class MarkCounter:
    """Sentences, whose words are counted each time they are iterated.

    Attributes:
        words: Number of words.
        marked: Number of words with a combining mark that is not an accent.
        example: The first of them; empty = none.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self._sentences = sentences
        self.words, self.marked, self.example = 0, 0, ""

    def __iter__(self) -> Iterator[str]:
        """Yield the sentences and count their words."""
        self.words, self.marked, self.example = 0, 0, ""
        for sentence in self._sentences:
            words = sentence.split()
            self.words += len(words)
            if not sentence.isascii():
                marked = list(filter(_pattern().search, words))
                self.marked += len(marked)
                self.example = self.example or next(iter(marked), "")
            yield sentence


def marked_words(text: str) -> tuple[int, int, str]:
    """Return the numbers of words and of words with such marks, and the first of the latter."""
    counter = MarkCounter([text])
    list(counter)
    return counter.words, counter.marked, counter.example


def marks_warning(words: int, marked: int, example: str) -> str:
    """Describe the loss of a tokenizer that removes these marks; empty if it is small."""
    if marked <= _FEW * words:
        return ""
    (first,) = _pattern().findall(example)[:1]
    mark = next(filter(_is_of_letter, unicodedata.normalize("NFD", first)))
    decomposed = unicodedata.normalize("NFD", example[:_SHOWN])
    rest = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
    return (
        f"lower-casing of WordPiece removes combining marks from {marked:,} of {words:,} words"
        f" ({example[:_SHOWN]!r} becomes {rest!r}, without {unicodedata.name(mark)}), which changes"
        " their spelling; train a tokenizer with --keep-accents, or with --kind sentencepiece"
    )


@cache
def _pattern() -> re.Pattern[str]:
    """Return a pattern of the characters that contain such a mark."""
    characters = [
        character
        for character in map(chr, range(0x300, _END))
        if any(map(_is_of_letter, unicodedata.normalize("NFD", character)))
    ]
    return re.compile(f"[{re.escape(''.join(characters))}]")


def _is_of_letter(character: str) -> bool:
    """Return True for a nonspacing mark that is neither an accent nor a variation selector."""
    if unicodedata.category(character) != "Mn":
        return False
    name = unicodedata.name(character, "")
    is_accent = name.startswith("COMBINING ") and character not in _DAKUTEN
    return not is_accent and "VARIATION SELECTOR" not in name
