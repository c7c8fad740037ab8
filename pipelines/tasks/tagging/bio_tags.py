"""Tags of words: the entities that they spell, and how well they are predicted.

Entities are those that conlleval finds, the scorer of CoNLL-2003: an I- that follows nothing of its
type begins one. What is written here is always BIO (IOB2): B- begins an entity, I- goes on with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from sklearn.metrics import f1_score as class_f1_score
from sklearn.metrics import precision_recall_fscore_support as class_scores

OUTSIDE = "O"

_PREFIXED = re.compile(r"[BIES]-.")

Tags = list[str]
Span = tuple[str, int, int]


def mark_entities(tags: Iterable[str]) -> bool:
    """Whether tags spell entities; others, such as parts of speech, stand for themselves."""
    return any(map(_PREFIXED.match, tags))


def is_entity_tag(tag: str) -> bool:
    """Whether a tag may stand among those that spell entities."""
    return tag == OUTSIDE or _PREFIXED.match(tag) is not None


def entities(tags: Sequence[str]) -> list[Span]:
    """Type, first word and one past the last word of every entity.

    Args:
        tags: Of a sentence, in IOB1, IOB2 (BIO), IOE or IOBES.
    """
    return [(label, first, last + 1) for label, first, last in get_entities(list(tags))]


def to_bio(tags: Sequence[str]) -> Tags:
    """The same entities in BIO."""
    written = [OUTSIDE] * len(tags)
    for label, first, end in entities(tags):
        written[first] = f"B-{label}"
        written[first + 1 : end] = [f"I-{label}"] * (end - first - 1)
    return written


def scores(gold: list[Tags], predicted: list[Tags]) -> dict[str, float]:
    """How well sentences are tagged.

    Args:
        gold: The right tags, a list per sentence.
        predicted: As long.

    Returns:
        ``f1``, ``precision`` and ``recall`` of entities of all types together, right being those
        whose type and both ends are, or, where tags spell no entities, ``f1`` as the mean over the
        tags (macro); ``accuracy`` of words.
    """
    found = {"accuracy": float(accuracy_score(gold, predicted))}
    if not mark_entities(tag for tags in (*gold, *predicted) for tag in tags):
        flat = ([tag for tags in side for tag in tags] for side in (gold, predicted))
        return {"f1": float(class_f1_score(*flat, average="macro", zero_division=0)), **found}
    # Without zero_division a model that finds nothing yet ends in a warning.
    return {
        "f1": float(f1_score(gold, predicted, zero_division=0)),
        "precision": float(precision_score(gold, predicted, zero_division=0)),
        "recall": float(recall_score(gold, predicted, zero_division=0)),
        **found,
    }


def by_type(gold: list[Tags], predicted: list[Tags]) -> dict[str, dict[str, float]]:
    """How well each type is found, as conlleval prints it; of other tags each tag.

    Args:
        gold: The right tags, a list per sentence.
        predicted: As long.

    Returns:
        Type -> ``precision``, ``recall``, ``f1`` and ``examples``, how many there are in `gold`.
    """
    if mark_entities(tag for tags in (*gold, *predicted) for tag in tags):
        names = sorted({name for tags in (*gold, *predicted) for name, *_ in entities(tags)})
        found = precision_recall_fscore_support(gold, predicted, zero_division=0)
    else:
        flat = [[tag for tags in side for tag in tags] for side in (gold, predicted)]
        names = sorted({tag for side in flat for tag in side})
        found = class_scores(*flat, labels=names, zero_division=0)
    return {
        name: {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "examples": int(count),
        }
        for name, precision, recall, f1, count in zip(names, *found, strict=True)
    }
