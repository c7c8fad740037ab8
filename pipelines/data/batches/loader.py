"""Training batches as a pure function of (store, config, step).

There is no iterator state: a resumed run calls `PretrainingData.batch_at` with another step, and
every process can compute the rows of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Protocol

import grain
import numpy as np

from bert_jax.config.run import RunConfig
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.batch import Batch, BatchShape, Shapes
from pipelines.data.batches.examples import Examples, PlanCache
from pipelines.data.batches.held_out import example_sets
from pipelines.data.store.token_store import Store

_PREFETCHED = 2  # batches that are prepared during a step


class Rows(Protocol):
    """The numbered rows of one store or of a mixture, at one sequence length."""

    def fill(self) -> float:
        """Return the fraction of the tokens that are not padding, about."""

    def shape(self, rows: int) -> BatchShape:
        """Return the shape of a batch with `rows` rows."""

    def batch(self, numbers: np.ndarray, rows: slice) -> Batch:
        """Make the batch of the rows `numbers`; arrays of its slice `rows`, counts of all."""


class PhaseBatches:
    """The batches of the phases of a run, from the rows that a subclass numbers."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._ends = list(accumulate(phase.steps for phase in config.phases))

    def examples(self, length: int) -> Rows:
        """Return the rows at one sequence length."""
        raise NotImplementedError

    def shapes(self, length: int, batch_size: int) -> Sequence[Shapes]:
        """Return the shapes and dtypes of the batches of a phase: they are all equal."""
        return [self.examples(length).shape(batch_size).fields()]

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """Make the batch of update number `step` (the first is 0)."""
        number = self._phase(step)
        phase = self._config.phases[number]
        first_step = self._ends[number] - phase.steps
        first_row = self._rows_before(number) + (step - first_step) * phase.batch_size
        numbers = first_row + np.arange(phase.batch_size)
        return self.examples(phase.length).batch(numbers, rows)

    def batches(self, first: int, last: int, rows: slice = slice(None)) -> Iterator[Batch]:
        """Yield batches first … last - 1 of one phase, made in a thread beside the consumer."""
        length = self._config.phases[self._phase(first)].length
        if self._config.data.packing:
            say(f"packing: rows of {length} tokens are {self.examples(length).fill():.1%} full")
        source = _Steps(self, first, last, rows)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED)
        return iter(grain.MapDataset.source(source).to_iter_dataset(options))

    def _phase(self, step: int) -> int:
        return next(number for number, end in enumerate(self._ends) if step < end)

    def _rows_before(self, phase: int) -> int:
        """Return the number of rows of the same length that earlier phases used."""
        phases = self._config.phases
        return sum(
            earlier.steps * earlier.batch_size
            for earlier in phases[:phase]
            if earlier.length == phases[phase].length
        )


class PretrainingData(PhaseBatches):
    """The batches of a run on one store.

    Attributes:
        digests: Digests of store and tokenizer.
        train: The documents to train on.
    """

    def __init__(self, store: Store, config: RunConfig) -> None:
        """Open a store for a run.

        Raises:
            BadInputError: The store has fewer than two training documents, or is damaged.
        """
        super().__init__(config)
        self._tokenizer, self._plans = store.tokenizer, PlanCache()
        self.digests = {"store": store.ledger.digest, "tokenizer": store.tokenizer.digest}
        self.train, self._held_out = store.split("train"), store.split("heldout")
        if self.train.documents < 2:
            raise BadInputError(
                f"{store.folder} has {self.train.documents} training document(s); next sentence"
                " prediction needs two. Separate documents by blank lines and prepare again"
            )

    @property
    def can_evaluate(self) -> bool:
        """True if there are at least two held-out documents."""
        return self._held_out.documents >= 2

    def held_out(
        self, length: int, batch_size: int, rows: slice = slice(None), limit: int = 0
    ) -> Iterator[Batch]:
        """Yield every held-out pair once, in a fixed random order, or the first `limit` batches.

        Pairs and masks are the same for every run: NSP pairs by the default `DataConfig`, whose
        masked tokens count and, if NSP is the objective of the run, whose labels. If it is SOP, all
        SOP pairs (or `limit` batches) follow, of which the labels count. What does not count has
        weight 0; so do the sequences that fill the last batch of each kind. If it is "mlm", all
        token types are 0 as in training: the network has no type 1, or never trained it.
        """
        objective = self._config.data.objective
        for examples, counted in self._held_out_sets(length):
            total = len(examples)
            for number, start in enumerate(range(0, total, batch_size)):
                if limit and number == limit:
                    break
                numbers = start + np.arange(batch_size)
                batch = examples.batch(np.minimum(numbers, total - 1), rows)
                real = (numbers < total)[rows].astype(np.float32)
                arrays = dict(batch.arrays)
                for name in ("mlm_weights", "nsp_weights"):
                    arrays[name] = arrays[name] * real[:, None] * (name in counted)
                if objective == "mlm":
                    arrays["token_type_ids"] = np.zeros_like(arrays["token_type_ids"])
                yield replace(batch, arrays=arrays)

    def held_out_batches(self, length: int, batch_size: int) -> int:
        """Return the number of batches of held-out text."""
        return sum(-(-len(examples) // batch_size) for examples, _ in self._held_out_sets(length))

    def held_out_parts(self, length: int) -> Mapping[str, tuple[float, PretrainingData]]:
        """Return the data whose held-out losses are measured: these, without a name."""
        return {"": (1.0, self)}

    def _held_out_sets(self, length: int) -> Iterator[tuple[Examples, tuple[str, ...]]]:
        if self.can_evaluate:
            of_run = self._config.data.objective, length, self._plans
            yield from example_sets(self._held_out, self._tokenizer, *of_run)

    def examples(self, length: int) -> Examples:
        """Return the training examples at one sequence length."""
        config = self._config
        return Examples(self.train, self._tokenizer, config.data, config.seed, length, self._plans)


class _Steps:
    """The steps of a phase as a random access source of Grain."""

    def __init__(self, data: PhaseBatches, first: int, last: int, rows: slice) -> None:
        self._data, self._first, self._last, self._rows = data, first, last, rows

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int) -> Batch:
        return self._data.batch_at(self._first + index, self._rows)
