"""Masked examples of a split as a pure function of their running number.

A pass goes through the windows of the store (`DataConfig.shuffle_tokens`; most stores are one) in a
random order and through the examples of each in a random order. A unit is what fills a row of a
batch: one example, or those that are packed together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bert_jax.config.run import DataConfig
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.batch import Arrays, Batch, BatchShape
from pipelines.data.batches import counter_rng
from pipelines.data.batches.masking import Predictions, mask_tokens
from pipelines.data.batches.packing import Packing, most_per_row, pack
from pipelines.data.batches.pairs import Pairs, plan
from pipelines.data.store.token_store import Split
from pipelines.data.tokenizers.tokenizer import Tokenizer

_ORDER, _MASK, _WINDOWS, _PACK = range(4)

_SHORTEST = 3  # [CLS], a token, [SEP]


@dataclass(frozen=True)
class Pass:
    """The examples of one pass over one window.

    Attributes:
        pairs: In the order of the corpus.
        packing: Of the pairs into rows.
        order: int64: the units in the order in which they are taken.
    """

    pairs: Pairs
    packing: Packing | None
    order: np.ndarray

    def __len__(self) -> int:
        """Number of units."""
        return len(self.order)


def batch_shape(data: DataConfig, length: int, rows: int) -> BatchShape:
    """The sizes of a batch of `rows` rows of `length` tokens."""
    predictions = data.predictions(length)
    if not data.packing:
        return BatchShape(rows, length, predictions)
    K = most_per_row(length)
    # Each sequence rounds its number of predictions up by a half, or from almost none to one.
    share = data.mlm_probability
    every = int(np.ceil(share * length + K * max(0.5, 1 - share * _SHORTEST)))
    return BatchShape(rows, length, min(every, K * predictions), K)


@dataclass(frozen=True)
class Placed:
    """The examples of a batch; every array is [N].

    Attributes:
        pairs: Their spans.
        key: uint64: decides their masks, whichever row they are in.
        row: int64: of the batch, ascending.
    """

    pairs: Pairs
    key: np.ndarray
    row: np.ndarray


@dataclass(frozen=True)
class Examples:
    """Masked examples of one split at one sequence length."""

    split: Split
    tokenizer: Tokenizer
    data: DataConfig
    seed: int
    length: int

    def __len__(self) -> int:
        """Units that are taken in a pass: as many as pass 0 has.

        Others have a few more or less, the smaller a share the larger the windows (some per mille
        of 10,000 units): those that are too many wait for another pass, those that are missing are
        taken twice. So the pass of a unit is known without planning all passes before it.
        """
        return sum(_sizes(self))

    def fill(self) -> float:
        """Share of the tokens of a row that are not padding, over the first window."""
        here = _pass(self, 0, 0)
        return float(here.pairs.length.sum() / (len(here) * self.length))

    def shape(self, rows: int) -> BatchShape:
        """Of a batch with so many rows."""
        return batch_shape(self.data, self.length, rows)

    def batch(self, number: np.ndarray, rows: slice) -> Batch:
        """The units with these running numbers; arrays of `rows` only, counts of all."""
        placed = self.at(number)
        tokens = int(placed.pairs.length.sum())
        first, end, _ = rows.indices(len(number))
        mine = slice(*np.searchsorted(placed.row, [first, end]))
        local = Placed(placed.pairs[mine], placed.key[mine], placed.row[mine] - first)
        return Batch(self._arrays(local, end - first), tokens, len(placed.row))

    def at(self, number: np.ndarray) -> Placed:
        """The examples of the units with these running numbers."""
        sizes = _sizes(self)
        epoch, place = number // len(self), number % len(self)
        found: list[Placed] = []
        for one in np.unique(epoch):
            key = counter_rng.key(self.seed, int(one), self.length, _WINDOWS)
            order = counter_rng.shuffled(key, len(sizes))
            ends = np.cumsum(np.array(sizes)[order])
            visit = np.searchsorted(ends, place, side="right")
            for turn in np.unique(visit[epoch == one]):
                rows = np.flatnonzero((epoch == one) & (visit == turn))
                window = int(order[turn])
                within = place[rows] - (ends[turn] - sizes[window])
                found.append(self._placed(int(one), window, within, rows))
        joined = found[0] if len(found) == 1 else _joined(found)
        back = np.argsort(joined.row, kind="stable")
        return Placed(joined.pairs[back], joined.key[back], joined.row[back])

    def _placed(self, epoch: int, window: int, place: np.ndarray, rows: np.ndarray) -> Placed:
        here = _pass(self, epoch, window)
        index = unit = here.order[place % len(here)]
        if here.packing is not None:
            starts, ends = here.packing.starts[unit], here.packing.starts[unit + 1]
            counts = ends - starts
            rows = np.repeat(rows, counts)
            first = np.repeat(starts - (np.cumsum(counts) - counts), counts)
            index = here.packing.order[first + np.arange(len(rows))]
        mask_key = counter_rng.key(self.seed, epoch, self.length, window, index, _MASK)
        return Placed(here.pairs[index], mask_key, rows)

    def _arrays(self, placed: Placed, rows: int) -> Arrays:
        pairs = placed.pairs
        length = pairs.length.astype(np.int64)[:, None]
        a = pairs.a_length.astype(np.int64)[:, None]
        position = np.arange(self.length)
        there = position < length
        is_separator = (position == a + 1) | (position == length - 1)
        candidates = there & ~is_separator & (position > 0)
        token_ids = np.full(there.shape, self.tokenizer.pad_id, np.int32)
        token_ids[candidates] = self._tokens(pairs)
        token_ids[:, 0] = self.tokenizer.cls_id
        token_ids[is_separator] = self.tokenizer.sep_id
        predictions = mask_tokens(
            token_ids,
            candidates,
            length[:, 0],
            placed.key,
            self.data.predictions(self.length),
            self.data.mlm_probability,
            self.tokenizer.mask_id,
            self.tokenizer.vocab_size,
            _word_starts(self.tokenizer) if self.data.whole_words else None,
        )
        token_type_ids = (there & (position > a + 1)).astype(np.int32)
        if self.data.packing:
            shape, pad_id = self.shape(rows), self.tokenizer.pad_id
            return _packed(shape, placed, token_ids, token_type_ids, predictions, pad_id)
        return {
            "token_ids": token_ids,
            "token_type_ids": token_type_ids,
            "segment_ids": there.astype(np.int32),
            "mlm_positions": predictions.positions,
            "mlm_targets": predictions.targets,
            "mlm_weights": predictions.weights,
            "nsp_labels": pairs.not_next.astype(np.int32)[:, None],
            "nsp_weights": (pairs.b_length > 0).astype(np.float32)[:, None],
        }

    def _tokens(self, pairs: Pairs) -> np.ndarray:
        starts = np.stack([pairs.a_start, pairs.b_start], axis=1).ravel()
        lengths = np.stack([pairs.a_length, pairs.b_length], axis=1).ravel()
        tokens = self.split.gather(starts, lengths)
        # A store that nobody verified, as for a quick look.
        if tokens.max(initial=0) >= self.tokenizer.vocab_size:
            raise BadInputError(
                f"the {self.split.name} tokens of the store hold the id {tokens.max()}, but the"
                f" vocabulary has only {self.tokenizer.vocab_size}; prepare the store again"
            )
        return tokens


def _packed(
    shape: BatchShape,
    placed: Placed,
    token_ids: np.ndarray,
    token_type_ids: np.ndarray,
    predictions: Predictions,
    pad_id: int,
) -> Arrays:
    """Moves examples, each in a row [N, T] of its own, to where they lie in the batch."""
    row, length = placed.row, placed.pairs.length.astype(np.int64)
    first_of_row = np.searchsorted(row, np.arange(shape.rows))[row]
    slot = np.arange(len(row)) - first_of_row
    begins = np.cumsum(length) - length
    offset = begins - begins[first_of_row]
    arrays = {name: np.zeros(size, kind) for name, (size, kind) in shape.fields().items()}

    position = np.arange(shape.length)
    there = position < length[:, None]
    target = (row * shape.length + offset)[:, None] + position
    arrays["token_ids"][:] = pad_id
    arrays["token_ids"].reshape(-1)[target[there]] = token_ids[there]
    arrays["token_type_ids"].reshape(-1)[target[there]] = token_type_ids[there]
    ids = np.broadcast_to((slot + 1)[:, None], there.shape)
    arrays["segment_ids"].reshape(-1)[target[there]] = ids[there]
    counted = np.broadcast_to(position, there.shape)
    arrays["position_ids"].reshape(-1)[target[there]] = counted[there]

    used = predictions.weights > 0
    count = used.sum(axis=1)
    before = np.cumsum(count) - count
    place = np.cumsum(used, axis=1) - 1 + (before - before[first_of_row])[:, None]
    rows = np.broadcast_to(row[:, None], used.shape)[used]
    arrays["mlm_positions"][rows, place[used]] = (predictions.positions + offset[:, None])[used]
    arrays["mlm_targets"][rows, place[used]] = predictions.targets[used]
    arrays["mlm_weights"][rows, place[used]] = 1
    arrays["cls_positions"][row, slot] = offset
    arrays["nsp_labels"][row, slot] = placed.pairs.not_next
    arrays["nsp_weights"][row, slot] = placed.pairs.b_length > 0
    return arrays


def _joined(found: list[Placed]) -> Placed:
    names = Pairs.__dataclass_fields__
    pairs = Pairs(*(np.concatenate([getattr(f.pairs, name) for f in found]) for name in names))
    key, row = (np.concatenate([getattr(f, name) for f in found]) for name in ("key", "row"))
    return Placed(pairs, key, row)


@lru_cache(maxsize=8)
def _sizes(examples: Examples) -> tuple[int, ...]:
    """Units of each window in pass 0."""
    windows = examples.split.windows(examples.data.shuffle_tokens)
    if len(windows) == 1:
        return (len(_pass(examples, 0, 0)),)
    counts = []
    for number in range(len(windows)):
        pairs, packing = _units(examples, 0, number)
        counts.append(len(packing or pairs))
    return tuple(counts)


@lru_cache(maxsize=3)  # pass 0 for its size, the current pass, and the next at a change
def _pass(examples: Examples, epoch: int, number: int) -> Pass:
    pairs, packing = _units(examples, epoch, number)
    windows = examples.split.windows(examples.data.shuffle_tokens)
    if len(windows) > 1:  # a store of one window is in memory since it was verified
        examples.split.warm(windows[number])
    key = counter_rng.key(examples.seed, epoch, examples.length, number, _ORDER)
    return Pass(pairs, packing, counter_rng.shuffled(key, len(packing or pairs)))


def _units(examples: Examples, epoch: int, number: int) -> tuple[Pairs, Packing | None]:
    """The examples of one pass over one window, and which share a row."""
    split, data, seed, length = examples.split, examples.data, examples.seed, examples.length
    window = split.windows(data.shuffle_tokens)[number]
    pairs = plan(split, seed, epoch, length, data.short_seq_prob, data.objective, window)
    if not len(pairs):
        raise BadInputError(f"the {split.name} tokens of the store give no pair")
    if not data.packing:
        return pairs, None
    key = counter_rng.key(seed, epoch, length, number, _PACK)
    shuffled = counter_rng.shuffled(key, len(pairs))
    packing = pack(pairs.length[shuffled], length, most_per_row(length))
    return pairs, Packing(shuffled[packing.order], packing.starts)


@lru_cache(maxsize=2)
def _word_starts(tokenizer: Tokenizer) -> np.ndarray:
    return tokenizer.word_starts()
