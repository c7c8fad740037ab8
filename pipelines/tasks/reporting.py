"""Files of a run that its report shows, so that the report need not read the examples.

RUN/data.json                   counts, lengths and labels of the training and validation examples
RUN/validation_samples.jsonl    the first validation examples with their newest predictions
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from pipelines.tasks.task import Features, Record, Task

DATA = "data.json"
SAMPLES = "validation_samples.jsonl"

_SAMPLES = 12
_TEXT_CHARACTERS = 300
_MOST_CLASSES = 100
_MOST_BINS = 24


def samples(task: Task, examples: Sequence[Any], records: Sequence[Record]) -> list[Record]:
    """Return the first examples with their predictions; long texts are truncated."""
    rows = []
    for example, record in islice(zip(examples, records, strict=True), _SAMPLES):
        sample = task.sample(example, record)
        rows.append(
            {
                "id": cut(example.id),
                "given": {name: cut(text) for name, text in sample.inputs.items()},
                "true": cut(sample.true),
                "predicted": cut(sample.predicted),
                "probability": sample.probability,
                "right": sample.correct,
            }
        )
    return rows


def facts(task: Task, examples: Sequence[Any], features: Features, length: int) -> dict[str, Any]:
    """Return the statistics of a set of examples.

    Args:
        task: The task of the examples.
        examples: Labeled examples.
        features: Their rows.
        length: Most tokens of a row.

    Returns:
        ``examples``, ``rows``; ``tokens``: ``median``, ``95%`` and ``longest`` of
        `Features.lengths`, ``longer`` (the fraction longer than a row) and a histogram, ``edges``
        and ``counts``, whose last bin has all that are longer than two rows; ``labels``: counts of
        the most frequent answers, and ``answers``, the count of all answers.
    """
    lengths = features.lengths
    longest = int(lengths.max(initial=1))
    top = min(longest, 2 * length)
    # Every bin covers the same whole number of tokens.
    width = top // _MOST_BINS + 1
    edges = np.arange(0, top + 1 + width, width)
    counts, _ = np.histogram(np.minimum(lengths, edges[-1]), edges)
    labels = task.counts(examples)
    return {
        "examples": len(examples),
        "rows": len(features.examples),
        "tokens": {
            "median": float(np.median(lengths)),
            "95%": float(np.quantile(lengths, 0.95)),
            "longest": longest,
            "longer": float(np.mean(lengths > length)),
            "edges": edges.tolist(),
            "counts": counts.tolist(),
        },
        "labels": {cut(name): count for name, count in labels.most_common(_MOST_CLASSES)},
        "answers": labels.total(),
    }


def cut(text: str) -> str:
    """Return a text as one line, truncated to what a table can show."""
    line = " ".join(text[: 4 * _TEXT_CHARACTERS].split())
    fits = len(line) <= _TEXT_CHARACTERS and len(text) <= 4 * _TEXT_CHARACTERS
    return line if fits else f"{line[:_TEXT_CHARACTERS]} …"


def around(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return the part of a text around all spans, or else around the first; `cut` keeps it whole.

    Args:
        text: The text.
        spans: First and one-past-last character of each; no spans = the beginning of the text.
    """
    first, end = (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (0, 0)
    room = _TEXT_CHARACTERS - 4  # without the two ellipses
    if end - first > room:
        first, end = spans[0]
    start = min(max(0, (first + end - room) // 2), max(0, len(text) - room))
    stop = start + room
    return ("… " if start else "") + text[start:stop].strip() + (" …" if stop < len(text) else "")
