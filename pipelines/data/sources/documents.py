"""Documents and the sentences in them."""

from __future__ import annotations

from sentencex import segment

# Non-empty lines.
Document = list[str]


def paragraphs(text: str) -> Document:
    """Split a text into its non-empty lines."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def split_sentences(document: Document, language: str) -> list[str]:
    """Split the lines of a document into sentences; `language` is an ISO 639 code."""
    return [
        stripped
        for line in document
        for sentence in segment(language, line)
        if (stripped := sentence.strip())
    ]
