"""Training batches as a pure function of (store, config, step).

There is no iterator state: resuming is calling `PretrainingData.batch_at` with another step, and
every process can compute which rows the others have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

import grain
import numpy as np

from bert_jax.batch import Batch
from bert_jax.config import DataConfig, Phase, RunConfig
from bert_jax.errors import BadInputError
from pipelines.data import keyed
from pipelines.data.masking import mask_tokens
from pipelines.data.pairs import SPECIALS_PER_PAIR, Pairs, plan
from pipelines.data.store import Split, Store
from pipelines.data.tokenizer import Tokenizer

_ORDER, _MASK = range(2)

# Held-out pairs and masks do not depend on the run's seed, so that runs can be compared.
_HELDOUT_SEED = 0

_PREFETCHED = 2  # batches that are made ready beside the step


@dataclass(frozen=True)
class Examples:
    """Masked pairs of one split at one sequence length."""

    split: Split
    tokenizer: Tokenizer
    data: DataConfig
    seed: int
    length: int

    def plan(self, epoch: int) -> Pairs:
        """The pairs of a pass."""
        return _plan(self.split, self.seed, epoch, self.length, self.data.short_seq_prob)

    def at(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, Pairs]:
        """Which pairs the examples with these running numbers are.

        A pass takes as many examples as pass 0 has pairs (the others differ from it by some per
        mille), so that the pass of an example is known without planning all passes before it.

        Returns:
            The pass and the index in its plan of each, and the pairs; all [N].
        """
        per_epoch = len(self.plan(0))
        epoch, place = number // per_epoch, number % per_epoch
        index = np.empty_like(number)
        found = []
        order = []
        for one in np.unique(epoch):
            here = np.flatnonzero(epoch == one)
            pairs = self.plan(int(one))
            key = keyed.key(self.seed, int(one), self.length, _ORDER)
            index[here] = keyed.permuted(key, place[here] % len(pairs), len(pairs))
            found.append(pairs[index[here]])
            order.append(here)
        back = np.argsort(np.concatenate(order))
        return epoch, index, _concatenate(found)[back]

    def batch(self, number: np.ndarray, rows: slice) -> Batch:
        """The examples with these running numbers; arrays of `rows` only, `tokens` of all."""
        epoch, index, pairs = self.at(number)
        tokens = int((pairs.a_length + pairs.b_length).sum()) + SPECIALS_PER_PAIR * len(pairs)
        return Batch(self._arrays(epoch[rows], index[rows], pairs[rows]), tokens)

    def _arrays(self, epoch: np.ndarray, index: np.ndarray, pairs: Pairs) -> dict[str, np.ndarray]:
        a, b = (x[:, None].astype(np.int64) for x in (pairs.a_length, pairs.b_length))
        position = np.arange(self.length)
        is_separator = (position == a + 1) | (position == a + b + 2)
        attention_mask = position < a + b + SPECIALS_PER_PAIR
        candidates = attention_mask & ~is_separator & (position > 0)
        token_ids = np.full(attention_mask.shape, self.tokenizer.pad_id, np.int32)
        token_ids[candidates] = self._tokens(pairs)
        token_ids[:, 0] = self.tokenizer.cls_id
        token_ids[is_separator] = self.tokenizer.sep_id
        key = keyed.key(self.seed, epoch, self.length, index, _MASK)
        predictions = mask_tokens(
            token_ids,
            candidates,
            (a + b + SPECIALS_PER_PAIR)[:, 0],
            key,
            self.data.predictions(self.length),
            self.data.mlm_probability,
            self.tokenizer.mask_id,
            self.tokenizer.vocab_size,
        )
        return {
            "token_ids": token_ids,
            "segment_ids": (attention_mask & (position > a + 1)).astype(np.int32),
            "attention_mask": attention_mask,
            "mlm_positions": predictions.positions,
            "mlm_targets": predictions.targets,
            "mlm_weights": predictions.weights,
            "nsp_labels": pairs.is_random.astype(np.int32),
            "nsp_weights": np.ones(len(pairs), np.float32),
        }

    def _tokens(self, pairs: Pairs) -> np.ndarray:
        starts = np.stack([pairs.a_start, pairs.b_start], axis=1).ravel()
        lengths = np.stack([pairs.a_length, pairs.b_length], axis=1).ravel()
        return self.split.gather(starts, lengths)


class PretrainingData:
    """The batches of a run."""

    def __init__(self, store: Store, config: RunConfig) -> None:
        """Opens a store for a run.

        Raises:
            BadInputError: It has fewer than two training documents, or is damaged.
        """
        self._config = config
        self._tokenizer = store.tokenizer
        self._train, self._heldout = store.split("train"), store.split("heldout")
        if self._train.documents < 2:
            raise BadInputError(
                f"{store.folder} has {self._train.documents} training document(s); next sentence"
                " prediction needs two. A blank line in a text file begins a new document"
            )
        self._ends = list(accumulate(phase.steps for phase in config.phases))

    @property
    def can_evaluate(self) -> bool:
        """Whether there are at least two held-out documents."""
        return self._heldout.documents >= 2

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of update number `step` (0 is the first)."""
        phase = next(number for number, end in enumerate(self._ends) if step < end)
        here = self._config.phases[phase]
        begin = self._ends[phase] - here.steps
        done = self._examples_before(phase) + (step - begin) * here.batch_size
        return self._examples(here).batch(done + np.arange(here.batch_size), rows)

    def batches(self, first: int, last: int, rows: slice = slice(None)) -> Iterator[Batch]:
        """Batches first … last - 1, made in a thread beside the consumer."""
        source = _Steps(self, first, last, rows)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED)
        return iter(grain.MapDataset.source(source).to_iter_dataset(options))

    def heldout(
        self, length: int, batch_size: int, rows: slice = slice(None), limit: int = 0
    ) -> Iterator[Batch]:
        """Every held-out pair once, in a fixed random order, or the first `limit` batches.

        The last batch is filled up with sequences of weight 0.
        """
        if not self.can_evaluate:
            return
        examples = self._heldout_examples(length)
        total = len(examples.plan(0))
        for number, start in enumerate(range(0, total, batch_size)):
            if limit and number == limit:
                return
            wanted = start + np.arange(batch_size)
            batch = examples.batch(np.minimum(wanted, total - 1), rows)
            real = (wanted < total)[rows].astype(np.float32)
            weights = {
                "mlm_weights": batch.arrays["mlm_weights"] * real[:, None],
                "nsp_weights": real,
            }
            yield replace(batch, arrays=batch.arrays | weights)

    def heldout_batches(self, length: int, batch_size: int) -> int:
        """Number of batches of held-out text."""
        if not self.can_evaluate:
            return 0
        return -(-len(self._heldout_examples(length).plan(0)) // batch_size)

    def _heldout_examples(self, length: int) -> Examples:
        return Examples(self._heldout, self._tokenizer, self._config.data, _HELDOUT_SEED, length)

    def _examples(self, phase: Phase) -> Examples:
        config = self._config
        return Examples(self._train, self._tokenizer, config.data, config.seed, phase.length)

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


@lru_cache(maxsize=3)  # pass 0 for its size, the current pass, and the next at a change
def _plan(split: Split, seed: int, epoch: int, length: int, short_seq_prob: float) -> Pairs:
    pairs = plan(split, seed, epoch, length, short_seq_prob)
    if not len(pairs):
        raise BadInputError(f"the {split.name} tokens of the store give no pair")
    return pairs


def _concatenate(parts: list[Pairs]) -> Pairs:
    if len(parts) == 1:
        return parts[0]
    return Pairs(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in Pairs.__dataclass_fields__
        )
    )
