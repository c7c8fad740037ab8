"""What a run writes down for its report, which has neither the examples nor the time to read them.

RUN/data.json                   of training and validation examples: how many, how long, of what
RUN/validation_samples.jsonl    the first validation examples with what the last evaluation said
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
_CUT = 300  # characters of a text
_CLASSES = 100  # whose counts are written down
_BINS = 24  # at most


def samples(task: Task, examples: Sequence[Any], records: Sequence[Record]) -> list[Record]:
    """The first examples with their predictions; long texts lose their end."""
    found = []
    for example, record in islice(zip(examples, records, strict=True), _SAMPLES):
        one = task.sample(example, record)
        found.append(
            {
                "id": cut(example.id),
                "given": {name: cut(text) for name, text in one.given.items()},
                "true": cut(one.true),
                "predicted": cut(one.predicted),
                "probability": one.probability,
                "right": one.right,
            }
        )
    return found


def facts(task: Task, examples: Sequence[Any], features: Features, length: int) -> dict[str, Any]:
    """What there is to know of a set of examples.

    Args:
        task: That they are of.
        examples: Labelled.
        features: Made of them.
        length: Most tokens of a row.

    Returns:
        ``examples``, ``rows``; ``tokens``: ``median``, ``95%`` and ``longest`` of
        `Features.lengths`, ``longer`` (share of those longer than a row) and a histogram, ``edges``
        and ``counts``, whose last bin has all that are longer than two rows; ``labels``: how often
        each of the most frequent answers is right, and ``answers``, how often any is.
    """
    lengths = features.lengths
    longest = int(lengths.max(initial=1))
    top = min(longest, 2 * length)
    # Of whole tokens, equally many in each bin.
    width = top // _BINS + 1
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
        "labels": {cut(name): count for name, count in labels.most_common(_CLASSES)},
        "answers": labels.total(),
    }


def cut(text: str) -> str:
    """A text in one line, at most so long that a table can show it."""
    line = " ".join(text[: 4 * _CUT].split())
    return line if len(line) <= _CUT and len(text) <= 4 * _CUT else f"{line[:_CUT]} …"


def around(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The part of a text that `cut` leaves whole, around all of the spans or else the first.

    Args:
        text: The text.
        spans: First and one-past-last character of each; none is the text's beginning.
    """
    first, end = (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (0, 0)
    room = _CUT - 4  # for what stands in place of the rest
    if end - first > room:
        first, end = spans[0]
    begin = min(max(0, (first + end - room) // 2), max(0, len(text) - room))
    stop = begin + room
    return ("… " if begin else "") + text[begin:stop].strip() + (" …" if stop < len(text) else "")
