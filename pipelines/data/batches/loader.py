"""Training batches as a pure function of (store, config, step).

There is no iterator state: a resumed run calls `PretrainingData.batch_at` with another step, and
every process can compute the rows of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

import grain
import numpy as np

from bert_jax.config.run import RunConfig
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.batch import Batch, Shapes
from pipelines.data.batches.examples import Examples
from pipelines.data.store.token_store import Store

# Held-out pairs and masks do not depend on the seed of the run, so that runs can be compared.
_HELD_OUT_SEED = 0

_PREFETCHED = 2  # batches that are prepared during a step


class PretrainingData:
    """The batches of a run.

    Attributes:
        digests: Digests of store and tokenizer.
    """

    def __init__(self, store: Store, config: RunConfig) -> None:
        """Open a store for a run.

        Raises:
            BadInputError: The store has fewer than two training documents, or is damaged.
        """
        self._config = config
        self._tokenizer = store.tokenizer
        self.digests = {"store": store.ledger.digest, "tokenizer": store.tokenizer.digest}
        self._train, self._held_out = store.split("train"), store.split("heldout")
        if self._train.documents < 2:
            raise BadInputError(
                f"{store.folder} has {self._train.documents} training document(s); next sentence"
                " prediction needs two. Separate documents by blank lines and prepare again"
            )
        self._ends = list(accumulate(phase.steps for phase in config.phases))

    @property
    def can_evaluate(self) -> bool:
        """True if there are at least two held-out documents."""
        return self._held_out.documents >= 2

    def shapes(self, length: int, batch_size: int) -> Shapes:
        """Return the shapes and dtypes of the batches of a phase."""
        return self._examples(length).shape(batch_size).fields()

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """Make the batch of update number `step` (the first is 0)."""
        number = self._phase(step)
        phase = self._config.phases[number]
        first_step = self._ends[number] - phase.steps
        first_row = self._rows_before(number) + (step - first_step) * phase.batch_size
        numbers = first_row + np.arange(phase.batch_size)
        return self._examples(phase.length).batch(numbers, rows)

    def batches(self, first: int, last: int, rows: slice = slice(None)) -> Iterator[Batch]:
        """Yield batches first … last - 1 of one phase, made in a thread beside the consumer."""
        examples = self._examples(self._config.phases[self._phase(first)].length)
        if self._config.data.packing:
            say(f"packing: rows of {examples.length} tokens are {examples.fill():.1%} full")
        source = _Steps(self, first, last, rows)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED)
        return iter(grain.MapDataset.source(source).to_iter_dataset(options))

    def held_out(
        self, length: int, batch_size: int, rows: slice = slice(None), limit: int = 0
    ) -> Iterator[Batch]:
        """Yield every held-out pair once, in a fixed random order, or the first `limit` batches.

        The last batch is filled with sequences of weight 0.
        """
        if not self.can_evaluate:
            return
        examples = self._held_out_examples(length)
        total = len(examples)
        for number, start in enumerate(range(0, total, batch_size)):
            if limit and number == limit:
                return
            numbers = start + np.arange(batch_size)
            batch = examples.batch(np.minimum(numbers, total - 1), rows)
            real = (numbers < total)[rows].astype(np.float32)
            weights = {
                "mlm_weights": batch.arrays["mlm_weights"] * real[:, None],
                "nsp_weights": batch.arrays["nsp_weights"] * real[:, None],
            }
            yield replace(batch, arrays=batch.arrays | weights)

    def held_out_batches(self, length: int, batch_size: int) -> int:
        """Return the number of batches of held-out text."""
        if not self.can_evaluate:
            return 0
        return -(-len(self._held_out_examples(length)) // batch_size)

    def _held_out_examples(self, length: int) -> Examples:
        return Examples(self._held_out, self._tokenizer, self._config.data, _HELD_OUT_SEED, length)

    def _phase(self, step: int) -> int:
        return next(number for number, end in enumerate(self._ends) if step < end)

    def _examples(self, length: int) -> Examples:
        config = self._config
        return Examples(self._train, self._tokenizer, config.data, config.seed, length)

    def _rows_before(self, phase: int) -> int:
        """Return the number of rows of the same length that earlier phases used."""
        phases = self._config.phases
        return sum(
            earlier.steps * earlier.batch_size
            for earlier in phases[:phase]
            if earlier.length == phases[phase].length
        )


class _Steps:
    """The steps of a phase as a random access source of Grain."""

    def __init__(self, data: PretrainingData, first: int, last: int, rows: slice) -> None:
        self._data, self._first, self._last, self._rows = data, first, last, rows

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int) -> Batch:
        return self._data.batch_at(self._first + index, self._rows)
