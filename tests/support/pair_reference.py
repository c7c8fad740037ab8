"""The pairs of create_pretraining_data.py, one at a time."""

from __future__ import annotations

import numpy as np


def reference(
    documents: list[list[int]], length: int, short: float, rng: np.random.Generator
) -> list[tuple[int, int, bool]]:
    """(tokens of A, tokens of B, random?) as create_pretraining_data.py describes them."""
    room, found = length - 3, []
    for number, document in enumerate(documents):
        target = int(rng.integers(2, room + 1)) if rng.random() < short else room
        at = 0
        while at < len(document):
            stop = at + 1
            while stop < len(document) and sum(document[at:stop]) < target:
                stop += 1
            to_a = int(rng.integers(1, stop - at)) if stop - at > 1 else 1
            a = sum(document[at : at + to_a])
            if stop - at == 1 or rng.random() < 0.5:
                other = int(rng.integers(len(documents) - 1))
                other += other >= number
                first = int(rng.integers(len(documents[other])))
                last = first + 1
                while last < len(documents[other]) and (
                    sum(documents[other][first:last]) < target - a
                ):
                    last += 1
                b, not_next, at = sum(documents[other][first:last]), True, at + to_a
            else:
                b, not_next, at = sum(document[at + to_a : stop]), False, stop
            while a + b > room:
                a, b = (a - 1, b) if a > b else (a, b - 1)
            found.append((a, b, not_next))
    return found
