"""Training batches as a pure function of (store, config, step).

There is no iterator state: resuming is calling `PretrainingData.batch_at` with another step, and
every process can compute which rows the others have.
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
from bert_jax.training.batch import Batch, BatchShape
from pipelines.data.batches.examples import Examples
from pipelines.data.store.token_store import Store

# Held-out pairs and masks do not depend on the run's seed, so that runs can be compared.
_HELDOUT_SEED = 0

_PREFETCHED = 2  # batches that are made ready beside the step


class PretrainingData:
    """The batches of a run.

    Attributes:
        digests: Of store and tokenizer.
    """

    def __init__(self, store: Store, config: RunConfig) -> None:
        """Opens a store for a run.

        Raises:
            BadInputError: It has fewer than two training documents, or is damaged.
        """
        self._config = config
        self._tokenizer = store.tokenizer
        self.digests = {"store": store.ledger.digest, "tokenizer": store.tokenizer.digest}
        self._train, self._held_out = store.split("train"), store.split("heldout")
        if self._train.documents < 2:
            raise BadInputError(
                f"{store.folder} has {self._train.documents} training document(s); next sentence"
                " prediction needs two. A blank line in a text file begins a new document"
            )
        self._ends = list(accumulate(phase.steps for phase in config.phases))

    @property
    def can_evaluate(self) -> bool:
        """Whether there are at least two held-out documents."""
        return self._held_out.documents >= 2

    def shape(self, length: int, batch_size: int) -> BatchShape:
        """Of the batches of a phase."""
        return self._examples(length).shape(batch_size)

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of update number `step` (0 is the first)."""
        phase = self._phase(step)
        here = self._config.phases[phase]
        begin = self._ends[phase] - here.steps
        done = self._examples_before(phase) + (step - begin) * here.batch_size
        return self._examples(here.length).batch(done + np.arange(here.batch_size), rows)

    def batches(self, first: int, last: int, rows: slice = slice(None)) -> Iterator[Batch]:
        """Batches first … last - 1 of one phase, made in a thread beside the consumer."""
        examples = self._examples(self._config.phases[self._phase(first)].length)
        if self._config.data.packing:
            say(f"packing: rows of {examples.length} tokens are {examples.fill():.1%} full")
        source = _Steps(self, first, last, rows)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED)
        return iter(grain.MapDataset.source(source).to_iter_dataset(options))

    def held_out(
        self, length: int, batch_size: int, rows: slice = slice(None), limit: int = 0
    ) -> Iterator[Batch]:
        """Every held-out pair once, in a fixed random order, or the first `limit` batches.

        The last batch is filled up with sequences of weight 0.
        """
        if not self.can_evaluate:
            return
        examples = self._heldout_examples(length)
        total = len(examples)
        for number, start in enumerate(range(0, total, batch_size)):
            if limit and number == limit:
                return
            wanted = start + np.arange(batch_size)
            batch = examples.batch(np.minimum(wanted, total - 1), rows)
            real = (wanted < total)[rows].astype(np.float32)
            weights = {
                "mlm_weights": batch.arrays["mlm_weights"] * real[:, None],
                "nsp_weights": batch.arrays["nsp_weights"] * real[:, None],
            }
            yield replace(batch, arrays=batch.arrays | weights)

    def heldout_batches(self, length: int, batch_size: int) -> int:
        """Number of batches of held-out text."""
        if not self.can_evaluate:
            return 0
        return -(-len(self._heldout_examples(length)) // batch_size)

    def _heldout_examples(self, length: int) -> Examples:
        return Examples(self._held_out, self._tokenizer, self._config.data, _HELDOUT_SEED, length)

    def _phase(self, step: int) -> int:
        return next(number for number, end in enumerate(self._ends) if step < end)

    def _examples(self, length: int) -> Examples:
        config = self._config
        return Examples(self._train, self._tokenizer, config.data, config.seed, length)

    def _examples_before(self, phase: int) -> int:
        """Examples of the same length that earlier phases took; they are not taken again."""
        phases = self._config.phases
        return sum(
            earlier.steps * earlier.batch_size
            for earlier in phases[:phase]
            if earlier.length == phases[phase].length
        )


class _Steps:
    """The steps of a phase as grain's random access source."""

    def __init__(self, data: PretrainingData, first: int, last: int, rows: slice) -> None:
        self._data, self._first, self._last, self._rows = data, first, last, rows

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int) -> Batch:
        return self._data.batch_at(self._first + index, self._rows)
