"""From the logits of windows to the answer of a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.tasks.qa.document import Document

# Null odds of a context without tokens: nothing can be answered. JSON has no infinity.
CERTAIN = 1e9


@dataclass(frozen=True)
class Window:
    """The part of a document that stands in one row.

    Attributes:
        document: All of it.
        first: Its first token in the row.
        count: How many there are.
        offset: Position in the row of the first.
    """

    document: Document
    first: int
    count: int
    offset: int


@dataclass(frozen=True)
class Decoding:
    """How answers are chosen.

    Attributes:
        n_best: How many starts, ends and answers are looked at.
        answer_length: Most tokens of an answer.
        null_threshold: Null odds above which the answer is "".
        with_null: Whether it may be.
    """

    n_best: int
    answer_length: int
    null_threshold: float
    with_null: bool


def decode(windows: Sequence[Window], logits: np.ndarray, how: Decoding) -> dict[str, Any]:
    """The answer to one question.

    Args:
        windows: Of its context, W.
        logits: float32 [W, T, 2], of starts and ends.
        how: The rules.

    Returns:
        ``answer``; ``start`` and ``end``, characters of the context (None if the answer is "");
        ``score``, the sum of both logits; ``probability`` among ``n_best``, the list of such
        answers; ``null_odds``, the score of no answer minus that of the best one.
    """
    scores = logits.astype(np.float64)
    null = float((scores[:, 0, 0] + scores[:, 0, 1]).min())
    nothing = {"answer": "", "start": None, "end": None, "score": null}
    best = _distinct(windows, _spans(windows, scores, how), how.n_best)
    odds = null - best[0]["score"] if best else CERTAIN
    if how.with_null or not best:
        best = sorted([*best, nothing], key=lambda found: -found["score"])
    weights = np.exp(np.array([found["score"] for found in best]) - best[0]["score"])
    for found, share in zip(best, weights / weights.sum(), strict=True):
        found["probability"] = float(share)
    silent = odds > how.null_threshold if how.with_null else odds == CERTAIN
    chosen = next((found for found in best if bool(found["answer"]) is not silent), best[0])
    return {**chosen, "null_odds": odds, "n_best": best}


def owners(windows: Sequence[Window]) -> np.ndarray:
    """int [N]: the window that shows most of what surrounds each token of the document.

    That is the smaller of the numbers of tokens to its left and right, plus 0.01 for each token of
    the window; the first of equals.
    """
    N = max(window.first + window.count for window in windows)
    best, owner = np.full(N, -1.0), np.zeros(N, np.int64)
    for number, window in enumerate(windows):
        part = slice(window.first, window.first + window.count)
        left = np.arange(window.count)
        score = np.minimum(left, window.count - 1 - left) + 0.01 * window.count
        owner[part] = np.where(score > best[part], number, owner[part])
        best[part] = np.maximum(score, best[part])
    return owner


def _spans(
    windows: Sequence[Window], scores: np.ndarray, how: Decoding
) -> Iterator[tuple[int, int, int, float]]:
    """Window, first and last token in the document, and score of each answer, best first."""
    W, T, _ = scores.shape
    inside, owned = np.zeros((W, T), bool), np.zeros((W, T), bool)
    owner = owners(windows)
    for number, window in enumerate(windows):
        part = slice(window.offset, window.offset + window.count)
        inside[number, part] = True
        owned[number, part] = owner[window.first : window.first + window.count] == number
    starts, ends = (
        np.argsort(-scores[:, :, side], axis=1, kind="stable")[:, : how.n_best] for side in (0, 1)
    )
    each = np.arange(W)[:, None]
    length = ends[:, None, :] - starts[:, :, None] + 1
    allowed = owned[each, starts][:, :, None] & inside[each, ends][:, None, :]
    row, i, j = np.nonzero(allowed & (length >= 1) & (length <= how.answer_length))
    start, end = starts[row, i], ends[row, j]
    if not len(row):  # the likeliest are all elsewhere: then one token
        row, start = np.nonzero(owned)
        end = start
    total = scores[row, start, 0] + scores[row, end, 1]
    for best in np.argsort(-total, kind="stable").tolist():
        window = windows[row[best]]
        shift = window.first - window.offset
        yield int(row[best]), int(start[best]) + shift, int(end[best]) + shift, float(total[best])


def _distinct(
    windows: Sequence[Window], spans: Iterator[tuple[int, int, int, float]], most: int
) -> list[dict[str, Any]]:
    """The best answers of different texts."""
    found: dict[str, dict[str, Any]] = {}
    for row, first, last, score in spans:
        document = windows[row].document
        start, end = document.characters(first, last)
        text = document.context[start:end]
        if text and text not in found:
            found[text] = {"answer": text, "start": start, "end": end, "score": score}
        if len(found) == most:
            break
    return list(found.values())
