"""Documents and the sentences in them."""

from __future__ import annotations

from pipelines.data.sources.sentences import split_sentences

__all__ = ["Document", "paragraphs", "split_sentences"]

# Non-empty lines.
Document = list[str]


def paragraphs(text: str) -> Document:
    """Split a text into its non-empty lines."""
    return [line for line in map(str.strip, text.split("\n")) if line]
