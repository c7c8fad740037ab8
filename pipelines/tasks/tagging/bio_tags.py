"""Tags of words and the entities that they mark.

Entities are those of conlleval, the scorer of CoNLL-2003: an I- tag after another type begins an
entity. The output is always BIO (IOB2): B- begins an entity and I- continues it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

OUTSIDE = "O"

_PREFIXED = re.compile(r"[BIES]-.")

Tags = list[str]
Span = tuple[str, int, int]


def mark_entities(tags: Iterable[str]) -> bool:
    """Return whether tags mark entities; others, such as parts of speech, are single classes."""
    return any(map(_PREFIXED.match, tags))


def is_entity_tag(tag: str) -> bool:
    """Return whether a tag is valid among tags that mark entities."""
    return tag == OUTSIDE or _PREFIXED.match(tag) is not None


def entities(tags: Sequence[str]) -> list[Span]:
    """Return type, first word and one past the last word of every entity.

    Args:
        tags: Tags of a sentence, in IOB1, IOB2 (BIO), IOE or IOBES.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    return [(label, first, last + 1) for label, first, last in get_entities(list(tags))]


def to_bio(tags: Sequence[str]) -> Tags:
    """Return the same entities in BIO."""
    bio = [OUTSIDE] * len(tags)
    for label, first, end in entities(tags):
        bio[first] = f"B-{label}"
        bio[first + 1 : end] = [f"I-{label}"] * (end - first - 1)
    return bio
