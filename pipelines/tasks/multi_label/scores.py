"""Scores and thresholds of labels, from probabilities [R, L] of R rows and L labels.

A label without examples counts as 0 in macro averages, as in scikit-learn, so that the metrics are
the same set of numbers at every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

HALF = 0.5  # the threshold of a label without a tuned one


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float64, of logits of any shape."""
    x = logits.astype(np.float64)
    power = np.exp(-np.abs(x))  # never overflows; small probabilities keep their digits
    return np.where(x >= 0, 1 / (1 + power), power / (1 + power))


def best_threshold(probabilities: np.ndarray, true: np.ndarray) -> float:
    """Return the threshold with the largest F1 of one label.

    A row has the label if its probability is at least the threshold. A threshold is half-way
    between two neighboring probabilities. If several are best, the result is 0.5 if it is one of
    them, or else the one nearest to 0.5; without positive rows it is 0.5.

    Args:
        probabilities: float64 [R].
        true: bool [R].
    """
    if not true.any():
        return HALF
    order = np.argsort(-probabilities, kind="stable")
    p, hits = probabilities[order], np.cumsum(true[order])
    last = np.append(p[1:] < p[:-1], True)  # equal probabilities are on the same side
    count = np.flatnonzero(last) + 1  # rows that get the label
    f1 = 2 * hits[last] / (count + true.sum())
    above, below = p[last], np.append(p[last][1:], 0.0)
    middle = (above + below) / 2
    thresholds = np.where(middle > below, middle, above)  # no number may be between neighbors
    # The threshold 0.5 is like that of the last cut above it.
    half = np.flatnonzero(above >= HALF)
    if len(half) and f1[half[-1]] == f1.max():
        return HALF
    best = thresholds[f1 == f1.max()]
    return float(best[np.argmin(np.abs(best - HALF))])


def metrics(true: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the metrics of all labels.

    Args:
        true: bool [R, L].
        probabilities: float64 [R, L].
        predicted: bool [R, L], with the thresholds of the model.

    Returns:
        ``macro_ap`` and ``micro_ap``, average precision, which needs no thresholds; ``macro_f1``,
        ``micro_f1`` and ``subset_accuracy`` (the fraction of rows with exactly the right labels)
        at 0.5; and ``tuned_macro_f1`` and ``tuned_micro_f1`` with the thresholds of the model.
    """
    from sklearn.metrics import average_precision_score

    at_half = probabilities >= HALF
    any_positive = bool(true.any())
    micro = average_precision_score(true.ravel(), probabilities.ravel()) if any_positive else 0.0
    return {
        "macro_ap": float(np.mean(_average_precisions(true, probabilities))),
        "micro_ap": float(micro),
        "macro_f1": _f1(true, at_half, "macro"),
        "micro_f1": _f1(true, at_half, "micro"),
        "subset_accuracy": float((true == at_half).all(axis=1).mean()),
        "tuned_macro_f1": _f1(true, predicted, "macro"),
        "tuned_micro_f1": _f1(true, predicted, "micro"),
    }


def by_label(
    names: list[str], true: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return the scores of each label; see `metrics`.

    Returns:
        Label -> ``precision``, ``recall`` and ``f1`` with the thresholds of the model,
        ``average_precision``, and ``examples``, the count of rows with the label.
    """
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        true, predicted, labels=range(len(names)), average=None, zero_division=0
    )
    if len(names) == 1:  # scikit-learn treats one column as two classes
        columns = precision_recall_fscore_support(
            true[:, 0], predicted[:, 0], labels=[1], average=None, zero_division=0
        )
    precisions = _average_precisions(true, probabilities)
    return {
        name: {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "average_precision": float(average),
            "examples": int(count),
        }
        for name, average, precision, recall, f1, count in zip(
            names, precisions, *columns, strict=True
        )
    }


def _average_precisions(true: np.ndarray, probabilities: np.ndarray) -> list[float]:
    from sklearn.metrics import average_precision_score

    return [
        float(average_precision_score(of, p)) if of.any() else 0.0
        for of, p in zip(true.T, probabilities.T, strict=True)
    ]


def _f1(true: np.ndarray, predicted: np.ndarray, average: str) -> float:
    from sklearn.metrics import f1_score

    if true.shape[1] == 1:  # scikit-learn treats one column as two classes
        return float(f1_score(true[:, 0], predicted[:, 0], zero_division=0))
    return float(f1_score(true, predicted, average=average, zero_division=0))
