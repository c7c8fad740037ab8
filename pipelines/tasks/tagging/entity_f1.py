"""Entity-level precision, recall and F1 of tags, as conlleval computes them."""

from __future__ import annotations

from pipelines.tasks.tagging.bio_tags import Tags, entities


def scores(gold: list[Tags], predicted: list[Tags], of_entities: bool) -> dict[str, float]:
    """Score tags of sentences.

    Args:
        gold: The right tags, a list per sentence.
        predicted: The predicted tags.
        of_entities: Whether the classes of the model mark entities. The tags that occur must not
            decide it: the metrics would change from one step or seed to the next.

    Returns:
        ``f1``, ``precision`` and ``recall`` of entities of all types together, 0 without any. An
        entity is right if its type and both ends are. If tags mark no entities, ``f1`` is the mean
        over the tags (macro). ``accuracy`` is that of words.
    """
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
    from sklearn.metrics import f1_score as class_f1_score

    accuracy = {"accuracy": float(accuracy_score(gold, predicted))}
    if not of_entities:
        flat = ([tag for tags in side for tag in tags] for side in (gold, predicted))
        return {"f1": float(class_f1_score(*flat, average="macro", zero_division=0)), **accuracy}
    # Without zero_division, a model that predicts no entity causes a warning.
    return {
        "f1": float(f1_score(gold, predicted, zero_division=0)),
        "precision": float(precision_score(gold, predicted, zero_division=0)),
        "recall": float(recall_score(gold, predicted, zero_division=0)),
        **accuracy,
    }


def by_type(
    gold: list[Tags], predicted: list[Tags], of_entities: bool
) -> dict[str, dict[str, float]]:
    """Score each type of entity, as conlleval does, or each tag if tags mark no entities.

    Args:
        gold: The right tags, a list per sentence.
        predicted: The predicted tags.
        of_entities: See `scores`.

    Returns:
        Type -> ``precision``, ``recall``, ``f1`` and ``examples``, the count in `gold`.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from sklearn.metrics import precision_recall_fscore_support as class_scores

    if of_entities:
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
