"""Tags of words, the entities that they mark, and scores.

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


def scores(gold: list[Tags], predicted: list[Tags]) -> dict[str, float]:
    """Score tags of sentences.

    Args:
        gold: The right tags, a list per sentence.
        predicted: The predicted tags.

    Returns:
        ``f1``, ``precision`` and ``recall`` of entities of all types together. An entity is right
        if its type and both ends are. If tags mark no entities, ``f1`` is the mean over the tags
        (macro). ``accuracy`` is that of words.
    """
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
    from sklearn.metrics import f1_score as class_f1_score

    accuracy = {"accuracy": float(accuracy_score(gold, predicted))}
    if not mark_entities(tag for tags in (*gold, *predicted) for tag in tags):
        flat = ([tag for tags in side for tag in tags] for side in (gold, predicted))
        return {"f1": float(class_f1_score(*flat, average="macro", zero_division=0)), **accuracy}
    # Without zero_division, a model that predicts no entity causes a warning.
    return {
        "f1": float(f1_score(gold, predicted, zero_division=0)),
        "precision": float(precision_score(gold, predicted, zero_division=0)),
        "recall": float(recall_score(gold, predicted, zero_division=0)),
        **accuracy,
    }


def by_type(gold: list[Tags], predicted: list[Tags]) -> dict[str, dict[str, float]]:
    """Score each type of entity, as conlleval does, or each tag if tags mark no entities.

    Args:
        gold: The right tags, a list per sentence.
        predicted: The predicted tags.

    Returns:
        Type -> ``precision``, ``recall``, ``f1`` and ``examples``, the count in `gold`.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from sklearn.metrics import precision_recall_fscore_support as class_scores

    if mark_entities(tag for tags in (*gold, *predicted) for tag in tags):
        names = sorted({name for tags in (*gold, *predicted) for name, *_ in entities(tags)})
        columns = precision_recall_fscore_support(gold, predicted, zero_division=0)
    else:
        flat = [[tag for tags in side for tag in tags] for side in (gold, predicted)]
        names = sorted({tag for side in flat for tag in side})
        columns = class_scores(*flat, labels=names, zero_division=0)
    return {
        name: {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "examples": int(count),
        }
        for name, precision, recall, f1, count in zip(names, *columns, strict=True)
    }
