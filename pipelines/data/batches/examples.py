"""Masked examples of a split as a pure function of the number of their row.

An epoch visits the windows of the store (`DataConfig.shuffle_tokens`; most stores have only one) in
random order, and the rows of each window in random order. A row of a batch contains one example, or
the examples that are packed together. Rows are numbered from 0 over all epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from bert_jax.config.run import DataConfig
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.batch import Arrays, Batch, BatchShape
from pipelines.data.batches import counter_rng
from pipelines.data.batches.masking import Predictions, mask_tokens
from pipelines.data.batches.packing import Packing, max_per_row, pack
from pipelines.data.batches.pairs import Pairs, plan
from pipelines.data.store.token_store import Split
from pipelines.data.tokenizers.tokenizer import Tokenizer

_ORDER, _MASK, _WINDOWS, _PACK = range(4)

_SHORTEST = 3  # [CLS], a token, [SEP]


@dataclass(frozen=True)
class WindowEpoch:
    """The examples of one window in one epoch.

    Attributes:
        pairs: The examples, in the order of the corpus.
        packing: Their assignment to rows; None for one example per row.
        order: int64: the rows in the order in which they are used.
        key: uint64: start of the keys of the masks.
    """

    pairs: Pairs
    packing: Packing | None
    order: np.ndarray
    key: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.order)


def batch_shape(data: DataConfig, length: int, rows: int) -> BatchShape:
    """Return the sizes of a batch of `rows` rows of `length` tokens."""
    predictions = data.predictions(length)
    if not data.packing:
        return BatchShape(rows, length, predictions)
    K = max_per_row(length)
    # Each sequence rounds its number of predictions up by at most a half, or from almost 0 to 1.
    probability = data.mlm_probability
    maximum = int(np.ceil(probability * length + K * max(0.5, 1 - probability * _SHORTEST)))
    return BatchShape(rows, length, min(maximum, K * predictions), K)


class TokenSource(Protocol):
    """Tokens that spans refer to: those of a split, or of several."""

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Concatenate the tokens [start, start + length) of every span; both are int [N]."""


@dataclass(frozen=True)
class BatchExamples:
    """The examples of a batch; every array is [N].

    Attributes:
        pairs: Their spans.
        key: uint64: determines their masks, regardless of their row.
        row: int64: row of the batch, ascending.
    """

    pairs: Pairs
    key: np.ndarray
    row: np.ndarray


@dataclass(frozen=True)
class Part:
    """The examples of a batch that come from one window in one epoch.

    Attributes:
        plan: The window.
        index: int64 [N]: examples of `plan`.
        row: int64 [N]: rows of the batch, ascending.
        store: Number of the store in a mixture.
    """

    plan: WindowEpoch
    index: np.ndarray
    row: np.ndarray
    store: int = 0


class PlanCache:
    """The newest plans of one store; a store of a mixture does not displace those of others."""

    def __init__(self) -> None:
        self.sizes = lru_cache(maxsize=8)(_window_sizes)
        # Epoch 0 for its size, the current epoch, and the next one at a change.
        self.epochs = lru_cache(maxsize=3)(_window_epoch)


@dataclass(frozen=True)
class Examples:
    """Masked examples of one split at one sequence length."""

    split: Split
    tokenizer: Tokenizer
    data: DataConfig
    seed: int
    length: int
    plans: PlanCache = field(default_factory=PlanCache, compare=False, repr=False)

    def __len__(self) -> int:
        """Number of rows that are used per epoch: the number of rows of epoch 0.

        Other epochs have a few rows more or less (less than 1% of 10,000 rows; the larger the
        windows, the smaller the fraction). Excess rows are not used, missing rows are used twice.
        So the epoch of a row is known without planning all epochs before it.
        """
        return sum(self.plans.sizes(self))

    def fill(self) -> float:
        """Return the fraction of the tokens that are not padding, in the first window."""
        plan = self.plans.epochs(self, 0, 0)
        return float(plan.pairs.length.sum() / (len(plan) * self.length))

    def shape(self, rows: int) -> BatchShape:
        """Return the shape of a batch with `rows` rows."""
        return batch_shape(self.data, self.length, rows)

    def batch(self, numbers: np.ndarray, rows: slice) -> Batch:
        """Make the batch of the rows `numbers`; arrays of its slice `rows`, counts of all."""
        return self.make(self.at(numbers), len(numbers), rows, self.split)

    def make(self, examples: BatchExamples, total: int, rows: slice, source: TokenSource) -> Batch:
        """Make a batch of `total` rows of these examples; the spans are those of `source`."""
        tokens = int(examples.pairs.length.sum())
        first, end, _ = rows.indices(total)
        part = slice(*np.searchsorted(examples.row, [first, end]))
        local = BatchExamples(examples.pairs[part], examples.key[part], examples.row[part] - first)
        return Batch(self._arrays(local, end - first, source), tokens, len(examples.row))

    def at(self, numbers: np.ndarray) -> BatchExamples:
        """Return the examples of the rows `numbers`, which become rows 0, 1, … of a batch."""
        return joined(self.parts(numbers))

    def parts(self, numbers: np.ndarray) -> list[Part]:
        """Return the same by epoch and window; the rows of each part are ascending."""
        sizes = self.plans.sizes(self)
        epochs, offsets = np.divmod(numbers, sum(sizes))
        if len(sizes) == 1 and epochs.min() == epochs.max():
            return [self._window_examples(int(epochs[0]), 0, offsets, np.arange(len(numbers)))]
        parts: list[Part] = []
        for epoch in np.unique(epochs):
            key = counter_rng.key(self.seed, int(epoch), self.length, _WINDOWS)
            order = counter_rng.shuffled(key, len(sizes))
            ends = np.cumsum(np.array(sizes)[order])
            visits = np.searchsorted(ends, offsets, side="right")
            for visit in np.unique(visits[epochs == epoch]):
                rows = np.flatnonzero((epochs == epoch) & (visits == visit))
                window = int(order[visit])
                window_offsets = offsets[rows] - (ends[visit] - sizes[window])
                parts.append(self._window_examples(int(epoch), window, window_offsets, rows))
        return parts

    def _window_examples(
        self, epoch: int, window: int, offsets: np.ndarray, rows: np.ndarray
    ) -> Part:
        """Return the examples at `offsets` in the shuffled rows of a window, as rows `rows`."""
        plan = self.plans.epochs(self, epoch, window)
        index = packed_row = plan.order[offsets % len(plan)]
        if plan.packing is not None:
            starts, ends = plan.packing.starts[packed_row], plan.packing.starts[packed_row + 1]
            counts = ends - starts
            rows = np.repeat(rows, counts)
            first = np.repeat(starts - (np.cumsum(counts) - counts), counts)
            index = plan.packing.order[first + np.arange(len(rows))]
        return Part(plan, index, rows)

    def _arrays(self, examples: BatchExamples, rows: int, source: TokenSource) -> Arrays:
        pairs = examples.pairs
        length = pairs.length.astype(np.int64)[:, None]
        a = pairs.a_length.astype(np.int64)[:, None]
        position = np.arange(self.length)
        is_token = position < length
        is_separator = (position == a + 1) | (position == length - 1)
        candidates = is_token & ~is_separator & (position > 0)
        token_ids = np.full(is_token.shape, self.tokenizer.pad_id, np.int32)
        token_ids[candidates] = self._tokens(pairs, source)
        token_ids[:, 0] = self.tokenizer.cls_id
        token_ids[is_separator] = self.tokenizer.sep_id
        predictions = mask_tokens(
            token_ids,
            candidates,
            length[:, 0],
            examples.key,
            self.data.predictions(self.length),
            self.data.mlm_probability,
            self.tokenizer.mask_id,
            self.tokenizer.vocab_size,
            _word_starts(self.tokenizer) if self.data.whole_words else None,
        )
        token_type_ids = (is_token & (position > a + 1)).astype(np.int32)
        if self.data.packing:
            shape, pad_id = self.shape(rows), self.tokenizer.pad_id
            return _packed(shape, examples, token_ids, token_type_ids, predictions, pad_id)
        return {
            "token_ids": token_ids,
            "token_type_ids": token_type_ids,
            "segment_ids": is_token.astype(np.int32),
            "mlm_positions": predictions.positions,
            "mlm_targets": predictions.targets,
            "mlm_weights": predictions.weights,
            "nsp_labels": pairs.not_next.astype(np.int32)[:, None],
            "nsp_weights": (pairs.b_length > 0).astype(np.float32)[:, None],
        }

    def _tokens(self, pairs: Pairs, source: TokenSource) -> np.ndarray:
        starts = np.stack([pairs.a_start, pairs.b_start], axis=1).ravel()
        lengths = np.stack([pairs.a_length, pairs.b_length], axis=1).ravel()
        tokens = source.gather(starts, lengths)
        # The store may not have been verified.
        if tokens.max(initial=0) >= self.tokenizer.vocab_size:
            raise BadInputError(
                f"the {self.split.name} tokens of the store contain the id {tokens.max()}, but the"
                f" vocabulary has only {self.tokenizer.vocab_size}; prepare the store again"
            )
        return tokens


def _packed(
    shape: BatchShape,
    examples: BatchExamples,
    token_ids: np.ndarray,
    token_type_ids: np.ndarray,
    predictions: Predictions,
    pad_id: int,
) -> Arrays:
    """Move examples, each in a row [N, T] of its own, to their rows and offsets in the batch."""
    row, length = examples.row, examples.pairs.length.astype(np.int64)
    first_of_row = np.searchsorted(row, np.arange(shape.rows))[row]
    slot = np.arange(len(row)) - first_of_row
    starts = np.cumsum(length) - length
    offset = starts - starts[first_of_row]
    arrays = {name: np.zeros(size, kind) for name, (size, kind) in shape.fields().items()}

    position = np.arange(shape.length)
    is_token = position < length[:, None]
    target = (row * shape.length + offset)[:, None] + position
    arrays["token_ids"][:] = pad_id
    arrays["token_ids"].reshape(-1)[target[is_token]] = token_ids[is_token]
    arrays["token_type_ids"].reshape(-1)[target[is_token]] = token_type_ids[is_token]
    ids = np.broadcast_to((slot + 1)[:, None], is_token.shape)
    arrays["segment_ids"].reshape(-1)[target[is_token]] = ids[is_token]
    position_ids = np.broadcast_to(position, is_token.shape)
    arrays["position_ids"].reshape(-1)[target[is_token]] = position_ids[is_token]

    used = predictions.weights > 0
    count = used.sum(axis=1)
    before = np.cumsum(count) - count
    column = np.cumsum(used, axis=1) - 1 + (before - before[first_of_row])[:, None]
    rows = np.broadcast_to(row[:, None], used.shape)[used]
    arrays["mlm_positions"][rows, column[used]] = (predictions.positions + offset[:, None])[used]
    arrays["mlm_targets"][rows, column[used]] = predictions.targets[used]
    arrays["mlm_weights"][rows, column[used]] = 1
    arrays["cls_positions"][row, slot] = offset
    arrays["nsp_labels"][row, slot] = examples.pairs.not_next
    arrays["nsp_weights"][row, slot] = examples.pairs.b_length > 0
    return arrays


def joined(parts: Sequence[Part], starts: Sequence[int] = (0,)) -> BatchExamples:
    """Join the examples of one batch, in the order of their rows.

    Args:
        parts: Not empty; their rows are all rows of the batch.
        starts: First token of each store; `Part.store` is an index of it.
    """
    if len(parts) == 1 and not starts[parts[0].store]:
        part = parts[0]
        key = counter_rng.extended(part.plan.key, part.index, _MASK)
        return BatchExamples(part.plan.pairs[part.index], key, part.row)
    row = np.concatenate([part.row for part in parts])
    by_row = np.argsort(row, kind="stable")
    columns = {
        name: np.concatenate([getattr(part.plan.pairs, name)[part.index] for part in parts])[by_row]
        for name in Pairs.__dataclass_fields__
    }
    sizes = [len(part.row) for part in parts]
    start = np.repeat([starts[part.store] for part in parts], sizes)[by_row]
    columns["a_start"] += start
    columns["b_start"] += start
    key = np.repeat(np.array([part.plan.key for part in parts]), sizes)
    index = np.concatenate([part.index for part in parts])
    mask_key = counter_rng.extended(key, index, _MASK)
    return BatchExamples(Pairs(**columns), mask_key[by_row], row[by_row])


def _window_sizes(examples: Examples) -> tuple[int, ...]:
    """Return the number of rows of each window in epoch 0."""
    windows = examples.split.windows(examples.data.shuffle_tokens)
    if len(windows) == 1:
        return (len(examples.plans.epochs(examples, 0, 0)),)
    counts = []
    for number in range(len(windows)):
        pairs, packing = _plan_rows(examples, 0, number)
        counts.append(len(packing or pairs))
    return tuple(counts)


def _window_epoch(examples: Examples, epoch: int, number: int) -> WindowEpoch:
    pairs, packing = _plan_rows(examples, epoch, number)
    windows = examples.split.windows(examples.data.shuffle_tokens)
    if len(windows) > 1:  # verification has read a store of one window into memory
        examples.split.warm(windows[number])
    key = counter_rng.key(examples.seed, epoch, examples.length, number)
    order = counter_rng.shuffled(counter_rng.extended(key, _ORDER), len(packing or pairs))
    return WindowEpoch(pairs, packing, order, key)


def _plan_rows(examples: Examples, epoch: int, number: int) -> tuple[Pairs, Packing | None]:
    """Return the examples of a window in an epoch, and which of them share a row."""
    split, data, seed, length = examples.split, examples.data, examples.seed, examples.length
    window = split.windows(data.shuffle_tokens)[number]
    pairs = plan(split, seed, epoch, length, data.short_seq_prob, data.objective, window)
    if not len(pairs):
        raise BadInputError(
            f"the {split.name} documents of the store are too short for a pair; add text"
        )
    if not data.packing:
        return pairs, None
    key = counter_rng.key(seed, epoch, length, number, _PACK)
    shuffled = counter_rng.shuffled(key, len(pairs))
    packing = pack(pairs.length[shuffled], length, max_per_row(length))
    return pairs, Packing(shuffled[packing.order], packing.starts)


@lru_cache(maxsize=2)
def _word_starts(tokenizer: Tokenizer) -> np.ndarray:
    return tokenizer.word_starts()
