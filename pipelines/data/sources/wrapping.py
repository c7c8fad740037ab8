"""Hard-wrapped text: paragraphs whose lines were cut at a certain width.

A line of such a text is no sentence and no paragraph. Project Gutenberg's books look like this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Columns. Shorter lines are verse or sentences; longer ones are paragraphs.
_WIDTHS = range(40, 121)
_MIN_LINES = 8
# Of a wrapped text, nearly all lines within a paragraph are almost full.
_FULL, _MOST = 0.75, 0.8
_WIDEST = 0.95
_ENDS = (".", "!", "?", '."', '!"', '?"', ".\u201d", "!\u201d", "?\u201d")
# textwrap and most editors also break a line behind a hyphen.
_HYPHEN = re.compile(r"\w-$")


def is_wrapped(paragraphs: Iterable[Sequence[str]]) -> bool:
    """Return whether the lines of paragraphs look as if they were cut at a certain width."""
    multiple = [lines for lines in paragraphs if len(lines) > 1]
    inner = [line for lines in multiple for line in lines[:-1]]
    if len(inner) < _MIN_LINES:
        return False
    # Not the longest line, which may be an address or a heading that was not cut.
    width = sorted(map(len, inner))[int(_WIDEST * (len(inner) - 1))]
    full = sum(len(line) >= _FULL * width for line in inner)
    ended = sum(line.endswith(_ENDS) for line in inner)
    return width in _WIDTHS and full >= _MOST * len(inner) and ended < len(inner) / 2


def joined(lines: Sequence[str]) -> str:
    """Return the lines of a paragraph as one line."""
    text = lines[0]
    for line in lines[1:]:
        text += line if _HYPHEN.search(text) and line[:1].isalpha() else f" {line}"
    return text
