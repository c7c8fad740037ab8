"""A simple implementation of the pairs of create_pretraining_data.py."""

from __future__ import annotations

import numpy as np


def reference(
    documents: list[list[int]], length: int, short: float, rng: np.random.Generator
) -> list[tuple[int, int, bool]]:
    """Return (tokens of A, tokens of B, random) of each pair."""
    room, pairs = length - 3, []
    for number, document in enumerate(documents):
        target = int(rng.integers(2, room + 1)) if rng.random() < short else room
        start = 0
        while start < len(document):
            stop = start + 1
            while stop < len(document) and sum(document[start:stop]) < target:
                stop += 1
            to_a = int(rng.integers(1, stop - start)) if stop - start > 1 else 1
            a = sum(document[start : start + to_a])
            if stop - start == 1 or rng.random() < 0.5:
                other = int(rng.integers(len(documents) - 1))
                other += other >= number
                first = int(rng.integers(len(documents[other])))
                last = first + 1
                while last < len(documents[other]) and (
                    sum(documents[other][first:last]) < target - a
                ):
                    last += 1
                b, not_next, start = sum(documents[other][first:last]), True, start + to_a
            else:
                b, not_next, start = sum(document[start + to_a : stop]), False, stop
            while a + b > room:
                a, b = (a - 1, b) if a > b else (a, b - 1)
            pairs.append((a, b, not_next))
    return pairs
