"""Batches of a task's rows: every row once per pass, in an order that follows from the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.training.batch import Batch
from pipelines.data.batches.counter_rng import key, shuffled
from pipelines.tasks.task import Arrays, Features

_ORDER = 1  # of a pass, among what is drawn from the seed

# Runs of every version must know their rows again, so the digest keeps the names of the first.
_NAME_IN_DIGEST = {"token_type_ids": "segment_ids", "segment_ids": "sequence_ids"}


@dataclass(frozen=True)
class TaskShape:
    """The static sizes of a batch."""

    rows: int
    arrays: Mapping[str, np.ndarray]

    def fields(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of every field."""
        return {n: ((self.rows, *a.shape[1:]), a.dtype) for n, a in self.arrays.items()}


class TaskBatches:
    """The training rows of a task.

    Attributes:
        digests: Of the rows, and of what `more` names.
    """

    def __init__(
        self, features: Features, batch_size: int, seed: int, more: Mapping[str, str]
    ) -> None:
        """Rows in batches of `batch_size`; `more` are digests of what else must not change."""
        self._arrays, self._seed, self._batch_size = features.arrays, seed, batch_size
        self.rows = len(features.examples)
        self.steps_per_epoch = -(-self.rows // batch_size)
        total = hashlib.sha256()
        named = {_NAME_IN_DIGEST.get(name, name): a for name, a in self._arrays.items()}
        for name, array in sorted(named.items()):
            total.update(f"{name} {array.shape} {array.dtype}\n".encode())
            total.update(np.ascontiguousarray(array).data)
        self.digests = {"training rows": total.hexdigest(), **more}

    def shape(self, length: int, batch_size: int) -> TaskShape:
        """Of all batches."""
        del length
        return TaskShape(batch_size, self._arrays)

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of update number `step`; the last of a pass is filled up with zeros."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = shuffled(key(self._seed, _ORDER, epoch)[()], self.rows)
        chosen = order[number * self._batch_size : (number + 1) * self._batch_size]
        return filled(self._arrays, chosen, self._batch_size, rows)

    def batches(self, first: int, last: int, rows: slice = slice(None)) -> Iterator[Batch]:
        """Batches first … last - 1."""
        for step in range(first, last):
            yield self.batch_at(step, rows)


def in_order(features: Features, batch_size: int, rows: slice) -> Iterator[Batch]:
    """All rows once, as they come."""
    count = len(features.examples)
    for first in range(0, count, batch_size):
        chosen = np.arange(first, min(first + batch_size, count))
        yield filled(features.arrays, chosen, batch_size, rows)


def filled(arrays: Arrays, chosen: np.ndarray, size: int, rows: slice) -> Batch:
    """The `chosen` rows and zeros up to `size`; of these, this process's `rows`."""
    found = {}
    for name, array in arrays.items():
        batch = np.zeros((size, *array.shape[1:]), array.dtype)
        batch[: len(chosen)] = array[chosen]
        found[name] = batch[rows]
    real = arrays["segment_ids"][chosen] > 0
    return Batch(found, int(real.sum()), int(real.any(axis=-1).sum()))
