"""Choice of an answer by the logits of the windows of its context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.tasks.qa.document import Document

# Null odds of a context without tokens, which has no answer. JSON has no infinity.
CERTAIN = 1e9


@dataclass(frozen=True)
class Window:
    """The part of a document in one row.

    Attributes:
        document: The document.
        first: Index of the first token.
        count: Number of tokens.
        offset: Position of the first token in the row.
    """

    document: Document
    first: int
    count: int
    offset: int


@dataclass(frozen=True)
class Decoding:
    """Rules for the choice of answers.

    Attributes:
        n_best: Number of starts, ends and answers to consider.
        answer_length: Most tokens of an answer.
        null_threshold: Null odds above which the answer is "".
        with_null: Allow "" as an answer.
    """

    n_best: int
    answer_length: int
    null_threshold: float
    with_null: bool


def decode(windows: Sequence[Window], logits: np.ndarray, rules: Decoding) -> dict[str, Any]:
    """Return the answer to one question.

    Args:
        windows: The W windows of its context.
        logits: float32 [W, T, 2], of starts and ends.
        rules: The rules.

    Returns:
        ``answer``; ``start`` and ``end``, characters of the context (None if the answer is "");
        ``score``, the sum of both logits; ``n_best``, the list of such answers, and
        ``probability`` among them; ``null_odds``, the score of no answer minus the best score.
    """
    scores = logits.astype(np.float64)
    null = float((scores[:, 0, 0] + scores[:, 0, 1]).min())
    no_answer = {"answer": "", "start": None, "end": None, "score": null}
    best = _distinct(windows, _spans(windows, scores, rules), rules.n_best)
    odds = null - best[0]["score"] if best else CERTAIN
    if rules.with_null or not best:
        best = sorted([*best, no_answer], key=lambda answer: -answer["score"])
    weights = np.exp(np.array([answer["score"] for answer in best]) - best[0]["score"])
    for answer, probability in zip(best, weights / weights.sum(), strict=True):
        answer["probability"] = float(probability)
    is_null = odds > rules.null_threshold if rules.with_null else odds == CERTAIN
    chosen = next((answer for answer in best if bool(answer["answer"]) is not is_null), best[0])
    return {**chosen, "null_odds": odds, "n_best": best}


def owners(windows: Sequence[Window]) -> np.ndarray:
    """Return int [N]: the window with the most context around each token of the document.

    Context is the smaller of the numbers of tokens to the left and right, plus 0.01 for each token
    of the window. The first of equal windows is used.
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
    windows: Sequence[Window], scores: np.ndarray, rules: Decoding
) -> Iterator[tuple[int, int, int, float]]:
    """Yield window, first and last token in the document, and score of answers, best first."""
    W, T, _ = scores.shape
    inside, owned = np.zeros((W, T), bool), np.zeros((W, T), bool)
    owner = owners(windows)
    for number, window in enumerate(windows):
        part = slice(window.offset, window.offset + window.count)
        inside[number, part] = True
        owned[number, part] = owner[window.first : window.first + window.count] == number
    starts, ends = (
        np.argsort(-scores[:, :, side], axis=1, kind="stable")[:, : rules.n_best] for side in (0, 1)
    )
    each = np.arange(W)[:, None]
    length = ends[:, None, :] - starts[:, :, None] + 1
    allowed = owned[each, starts][:, :, None] & inside[each, ends][:, None, :]
    row, i, j = np.nonzero(allowed & (length >= 1) & (length <= rules.answer_length))
    start, end = starts[row, i], ends[row, j]
    if not len(row):  # the best starts and ends form no span: use single tokens
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
    """Return the best answers with different texts."""
    answers: dict[str, dict[str, Any]] = {}
    for row, first, last, score in spans:
        document = windows[row].document
        start, end = document.characters(first, last)
        text = document.context[start:end]
        if text and text not in answers:
            answers[text] = {"answer": text, "start": start, "end": end, "score": score}
        if len(answers) == most:
            break
    return list(answers.values())
