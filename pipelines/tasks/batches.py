"""Batches of a task's rows: every row once per epoch, in an order that depends on the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from bert_jax.training.batch import Batch, Shapes
from pipelines.data.batches.counter_rng import key, shuffled
from pipelines.tasks.packing import TrainingLayout, training_layout
from pipelines.tasks.task import Arrays, Features

_ORDER = 1  # the stream of random numbers that shuffles an epoch

# A resumed run compares digests, so the digest uses the names of the first version.
_NAME_IN_DIGEST = {"token_type_ids": "segment_ids", "segment_ids": "sequence_ids"}


class TaskBatches:
    """The training rows of a task.

    Attributes:
        digests: Digests that must not change when a run resumes.
    """

    def __init__(
        self, features: Features, batch_size: int, seed: int, more: Mapping[str, str]
    ) -> None:
        """Create batches of `batch_size` rows; `more` are digests of other inputs of the run."""
        self._arrays, self._seed, self._batch_size = features.arrays, seed, batch_size
        self.rows = len(features.examples)
        self.steps_per_epoch = -(-self.rows // batch_size)
        self._layout: TrainingLayout | None = None
        total = hashlib.sha256()
        named = {_NAME_IN_DIGEST.get(name, name): a for name, a in self._arrays.items()}
        for name, array in sorted(named.items()):
            total.update(f"{name} {array.shape} {array.dtype}\n".encode())
            total.update(np.ascontiguousarray(array).data)
        self.digests = {"training rows": total.hexdigest(), **more}

    def pack(self, steps: int, devices: int, parts: int) -> None:
        """Put several rows into one, in all `steps` of a run; see `packing.training_layout`."""
        epochs = range(-(-steps // self.steps_per_epoch))
        numbers = range(self.steps_per_epoch)
        orders = ((order, n) for order in map(self._order, epochs) for n in numbers)
        batches = (self._chosen(order, n) for order, n in islice(orders, steps))
        self._layout = training_layout(self._arrays, batches, self._batch_size, devices, parts)

    def shapes(self, length: int, batch_size: int) -> Sequence[Shapes]:
        """Return the shapes and dtypes that a batch can have."""
        del length
        if self._layout is not None:
            return self._layout.shapes(self._arrays)
        return [{n: ((batch_size, *a.shape[1:]), a.dtype) for n, a in self._arrays.items()}]

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """Return the batch of a step; rows of zeros fill up the last batch of an epoch."""
        epoch, number = divmod(step, self.steps_per_epoch)
        chosen = self._chosen(self._order(epoch), number)
        if self._layout is None:
            return filled(self._arrays, chosen, self._batch_size, rows)
        whole = filled(self._arrays, chosen, self._batch_size, slice(None))
        return replace(whole, arrays=self._layout.batch(whole.arrays, rows))

    def batches(self, first: int, last: int, rows: slice = slice(None)) -> Iterator[Batch]:
        """Yield the batches of the steps first … last - 1."""
        for step in range(first, last):
            yield self.batch_at(step, rows)

    def _order(self, epoch: int) -> np.ndarray:
        return shuffled(key(self._seed, _ORDER, epoch)[()], self.rows)

    def _chosen(self, order: np.ndarray, number: int) -> np.ndarray:
        """Return the rows of batch `number` of an epoch."""
        return order[number * self._batch_size : (number + 1) * self._batch_size]


def in_order(features: Features, batch_size: int, rows: slice) -> Iterator[Batch]:
    """Yield all rows once, in their order."""
    count = len(features.examples)
    for first in range(0, count, batch_size):
        chosen = np.arange(first, min(first + batch_size, count))
        yield filled(features.arrays, chosen, batch_size, rows)


def filled(arrays: Arrays, chosen: np.ndarray, size: int, rows: slice) -> Batch:
    """Return the `chosen` rows, zeros up to `size`; of these, the `rows` of this process."""
    fields = {}
    for name, array in arrays.items():
        batch = np.zeros((size, *array.shape[1:]), array.dtype)
        batch[: len(chosen)] = array[chosen]
        fields[name] = batch[rows]
    real = arrays["segment_ids"][chosen] > 0
    return Batch(fields, int(real.sum()), int(real.any(axis=-1).sum()))
