"""Tags of words and the entities that they mark.

Entities are those of conlleval, the scorer of CoNLL-2003: an I- tag after another type begins an
entity. The output is always BIO (IOB2): B- begins an entity and I- continues it. `schemes` reads
other notations.
"""

from __future__ import annotations

from collections.abc import Sequence

OUTSIDE = "O"
UNTYPED = "_"  # the type of entities that are marked with B, I and O alone, as in seqeval

Tags = list[str]
Span = tuple[str, int, int]


def entities(tags: Sequence[str]) -> list[Span]:
    """Return type, first word and one past the last word of every entity.

    Args:
        tags: Tags of a sentence: O, or B, I, E or S, alone or followed by ``-`` and a type.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    return [(label, first, last + 1) for label, first, last in get_entities(list(tags))]


def to_bio(tags: Sequence[str]) -> Tags:
    """Return the same entities in BIO; see `entities`."""
    bio = [OUTSIDE] * len(tags)
    for label, first, end in entities(tags):
        bio[first] = tag_of("B", label)
        bio[first + 1 : end] = [tag_of("I", label)] * (end - first - 1)
    return bio


def tag_of(letter: str, label: str) -> str:
    """Return the tag of a word of an entity of type `label`; `letter` is B or I."""
    return letter if label == UNTYPED else f"{letter}-{label}"


def type_of(tag: str) -> str:
    """Return the type of a BIO tag that is not O."""
    return tag[2:] or UNTYPED
