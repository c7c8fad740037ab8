"""Exact match and F1 of answers, as in the official evaluations of SQuAD 1.1 and 2.0."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.qa.entries import Entry, answer_texts, entries_of, has_null

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
# The default of the evaluation of SQuAD 2.0.
OFFICIAL_THRESHOLD = 1.0

Golds = Mapping[str, Sequence[str]]  # id -> right answers; none: there is no answer


def score(
    gold: Mapping[str, Any],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
    threshold: float = OFFICIAL_THRESHOLD,
) -> dict[str, float]:
    """Score a file of predictions, in percent.

    Questions without a prediction count as wrong, and a message has their number. (The official
    evaluation of version 1.1 does the same; that of 2.0 fails.)

    Args:
        gold: A file of SQuAD; `is_impossible` or its version decide which evaluation applies.
        predictions: id -> answer, "" for none; other ids are ignored.
        null_odds: id -> score of no answer minus the score of the answer (version 2.0).
        threshold: An answer with larger odds counts as none.

    Returns:
        ``exact``, ``f1``, ``total``; in version 2.0 also ``HasAns_…`` and ``NoAns_…``, each for the
        questions of one kind, and with `null_odds` the thresholds of the odds with the best scores,
        ``best_exact_thresh`` and ``best_f1_thresh``, with these scores, ``best_exact`` and
        ``best_f1``. For them, predictions are the best answers that are not "".

    Raises:
        BadInputError: `gold` has not the format of SQuAD, or an answer is not a text.
    """
    entries = list(entries_of(gold, "the gold file"))
    with_null = has_null(entries, gold.get("version", ""))
    return score_answers(_golds(entries, with_null), predictions, with_null, null_odds, threshold)


def score_answers(
    golds: Golds,
    predictions: Mapping[str, str],
    with_null: bool,
    null_odds: Mapping[str, float] | None = None,
    threshold: float = OFFICIAL_THRESHOLD,
) -> dict[str, float]:
    """Score answers; see `score`. With `with_null`, questions may have no answer."""
    raw = _raw(golds, predictions, with_null)
    if not with_null:
        return _means(raw, list(raw), "")
    odds = null_odds or {}
    kept = {
        name: (float(not golds[name]),) * 2 if odds.get(name, 0.0) > threshold else pair
        for name, pair in raw.items()
    }
    metrics = _means(kept, list(kept), "")
    for prefix, answerable in (("HasAns_", True), ("NoAns_", False)):
        names = [name for name in kept if bool(golds[name]) is answerable]
        if names:
            metrics |= _means(kept, names, prefix)
    return metrics | (_tuned(golds, raw, predictions, odds) if odds else {})


def normalized(text: str) -> str:
    """Return a text without capitals, ASCII punctuation, articles and extra white space."""
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _golds(entries: Sequence[Entry], with_null: bool) -> dict[str, tuple[str, ...]]:
    golds = {entry.id: answer_texts(entry, with_null) for entry in entries}
    if not golds:
        raise BadInputError("the gold file has no questions; check that it is a SQuAD file")
    return golds


def _raw(
    golds: Golds, predictions: Mapping[str, str], with_null: bool
) -> dict[str, tuple[float, float]]:
    """Return id -> exact match and F1 with the most similar right answer."""
    scores = {}
    missing = [name for name in golds if name not in predictions]
    if missing:
        say(
            f"{len(missing):,} of {len(golds):,} questions have no prediction and count as wrong"
            f" (first: {missing[0]})"
        )
    for name, answers in golds.items():
        if name not in predictions:
            scores[name] = (0.0, 0.0)
            continue
        if not isinstance(predictions[name], str):
            raise BadInputError(
                f"the prediction of {name} must be a text, not {predictions[name]!r:.40}"
            )
        prediction = normalized(predictions[name])
        rights = [normalized(answer) for answer in answers]
        if with_null:
            rights = [right for right in rights if right] or [""]
        scores[name] = (
            max(float(prediction == right) for right in rights),
            max(_f1(prediction.split(), right.split(), with_null) for right in rights),
        )
    return scores


def _f1(prediction: list[str], right: list[str], with_null: bool) -> float:
    """Return the F1 of bags of words; two empty ones are equal in version 2.0 only."""
    if with_null and not (prediction and right):
        return float(prediction == right)
    common = sum((Counter(prediction) & Counter(right)).values())
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(right)
    return 2 * precision * recall / (precision + recall)


def _means(
    scores: Mapping[str, tuple[float, float]], names: Sequence[str], prefix: str
) -> dict[str, float]:
    means = {}
    for index, metric in enumerate(("exact", "f1")):
        # Not sum(), which since Python 3.12 differs from the published scores in the last digit.
        *_, total = accumulate(scores[name][index] for name in names)
        means[f"{prefix}{metric}"] = 100.0 * total / len(names)
    return means | {f"{prefix}total": len(names)}


def _tuned(
    golds: Golds,
    raw: Mapping[str, tuple[float, float]],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
) -> dict[str, float]:
    """Return the best thresholds and their scores; 0 if giving no answers at all is best."""
    order = sorted((name for name in null_odds if name in raw), key=lambda name: null_odds[name])
    thresholds = [0.0, *(null_odds[name] for name in order)]
    tuned = {}
    for index, metric in enumerate(("exact", "f1")):
        # From no answers to all answers, in the order of their odds.
        gains = (
            raw[name][index] if golds[name] else -float(bool(predictions.get(name)))
            for name in order
        )
        sums = list(accumulate(gains, initial=float(sum(not right for right in golds.values()))))
        best = max(range(len(sums)), key=sums.__getitem__)
        tuned[f"best_{metric}"] = 100.0 * sums[best] / len(raw)
        tuned[f"best_{metric}_thresh"] = thresholds[best]
    return tuned
