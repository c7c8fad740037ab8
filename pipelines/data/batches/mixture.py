"""Rows of several stores, mixed: still a pure function of the number of the row.

The rows of a mixture are cut into blocks. Every block contains the same number of rows of each
store, evenly spread with some jitter, in an order that depends on the number of the block. So the
number of the rows that a store supplied before any row is known without counting, and the rows of
each store are those of a run on that store alone, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from bert_jax.config.run import RunConfig
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.batch import Batch, BatchShape
from pipelines.data.batches import counter_rng
from pipelines.data.batches.examples import BatchExamples, Examples, Part, joined
from pipelines.data.batches.loader import PhaseBatches, PretrainingData
from pipelines.data.store.token_store import Split, Store, gather

# Rows of a block: fractions are multiples of its inverse.
BLOCK = 100_000
_ROW_BITS = BLOCK.bit_length()
_PLACE_BITS = 62 - _ROW_BITS

_JITTER = 4  # the stream of random numbers; `examples` has 0 to 3


class JoinedSplits:
    """The tokens of several splits, as one sequence.

    Attributes:
        starts: First token of each split.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        """Join the shards; they are not copied."""
        self._arrays = [tokens for split in splits for _, tokens in split.shards()]
        self._ends = np.cumsum([0, *(len(array) for array in self._arrays)])
        self.starts = np.cumsum([0, *(split.tokens for split in splits[:-1])]).tolist()

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Concatenate the tokens [start, start + length) of every span; both are int [N]."""
        return gather(self._arrays, self._ends, starts, lengths)


@dataclass(frozen=True)
class Mixture:
    """The rows of a mixture at one sequence length.

    Attributes:
        stores: The examples of each store.
        quotas: Rows of each store in a block.
        source: The tokens of all stores.
        seed: Seed of the run.
    """

    stores: tuple[Examples, ...]
    quotas: tuple[int, ...]
    source: JoinedSplits
    seed: int

    def fill(self) -> float:
        """Return the fraction of the tokens that are not padding."""
        return sum(
            quota * store.fill() for quota, store in zip(self.quotas, self.stores, strict=True)
        ) / sum(self.quotas)

    def shape(self, rows: int) -> BatchShape:
        """Return the shape of a batch with `rows` rows."""
        return self.stores[0].shape(rows)

    def batch(self, numbers: np.ndarray, rows: slice) -> Batch:
        """Make the batch of the rows `numbers`; arrays of its slice `rows`, counts of all."""
        return self.stores[0].make(self.at(numbers), len(numbers), rows, self.source)

    def at(self, numbers: np.ndarray) -> BatchExamples:
        """Return the examples of the rows `numbers`; their spans are those of `source`."""
        stores, numbers = self.positions(numbers)
        parts: list[Part] = []
        for number, store in enumerate(self.stores):
            rows = np.flatnonzero(stores == number)
            for part in store.parts(numbers[rows]) if len(rows) else ():
                parts.append(Part(part.plan, part.index, rows[part.row], number))
        return joined(parts, self.source.starts)

    def positions(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the store of each row, and that of the row in its store."""
        blocks, offsets = np.divmod(numbers, BLOCK)
        stores, positions = np.empty_like(offsets), np.empty_like(offsets)
        length = self.stores[0].length
        for block in range(int(blocks.min()), int(blocks.max()) + 1):
            rows = blocks == block
            store, position = _block(self.quotas, self.seed, length, block)
            stores[rows], positions[rows] = store[offsets[rows]], position[offsets[rows]]
        return stores, positions


class MixedData(PhaseBatches):
    """The batches of a run on several stores.

    Attributes:
        digests: Digests of all stores, by their position in ``data.stores``, and of the tokenizer.
        parts: The data of each store, by its name.
    """

    def __init__(self, stores: Sequence[Store], config: RunConfig) -> None:
        """Open the stores of ``data.stores``, in this order.

        Raises:
            BadInputError: They have different tokenizers, one appears twice, has fewer than two
                training documents, or is damaged.
        """
        super().__init__(config)
        _check(stores)
        self._entries, self._mixtures = config.data.stores, dict[int, Mixture]()
        parts = [PretrainingData(store, config) for store in stores]
        labels = [entry.label for entry in self._entries]
        self.parts = dict(zip(labels, parts, strict=True))
        self.digests = {
            **{f"stores[{n}]": part.digests["store"] for n, part in enumerate(parts)},
            "tokenizer": parts[0].digests["tokenizer"],
        }

    @cached_property
    def _source(self) -> JoinedSplits:
        return JoinedSplits([part.train for part in self.parts.values()])

    def fractions(self, length: int) -> dict[str, float]:
        """Return the fraction of the rows of each store, at one sequence length."""
        quotas = self.examples(length).quotas
        return {name: quota / BLOCK for name, quota in zip(self.parts, quotas, strict=True)}

    def epochs(self, length: int, rows: int) -> dict[str, float]:
        """Return how often each store is used in `rows` rows of the mixture."""
        sizes = map(len, self.examples(length).stores)
        fractions = self.fractions(length).items()
        return {name: x * rows / size for (name, x), size in zip(fractions, sizes, strict=True)}

    def batches(self, first: int, last: int, rows: slice = slice(None)) -> Iterator[Batch]:
        """Yield batches first … last - 1 of one phase; report the mixture first."""
        phase = self._config.phases[self._phase(first)]
        epochs = self.epochs(phase.length, phase.steps * phase.batch_size)
        parts = [
            f"{name} {fraction:.1%} of the rows, {epochs[name]:.3g} epochs in this phase"
            for name, fraction in self.fractions(phase.length).items()
        ]
        say(f"mixture at length {phase.length}: {'; '.join(parts)}")
        return super().batches(first, last, rows)

    def held_out_parts(self, length: int) -> Mapping[str, tuple[float, PretrainingData]]:
        """Return the data whose held-out losses are measured, with their fractions, by name."""
        fractions = self.fractions(length)
        return {name: (fractions[name], part) for name, part in self.parts.items()}

    def examples(self, length: int) -> Mixture:
        """Return the mixed rows at one sequence length."""
        if length not in self._mixtures:
            stores = tuple(part.examples(length) for part in self.parts.values())
            weights = [
                entry.fraction or entry.epochs * len(store)
                for entry, store in zip(self._entries, stores, strict=True)
            ]
            quotas = _quotas(weights, list(self.parts))
            self._mixtures[length] = Mixture(stores, quotas, self._source, self._config.seed)
        return self._mixtures[length]


def _check(stores: Sequence[Store]) -> None:
    first, folders = stores[0], dict[str, Store]()
    for store in stores:
        if store.ledger.tokenizer != first.ledger.tokenizer:
            raise BadInputError(
                f"{store.folder} was made with another tokenizer than {first.folder}"
                f" ({store.ledger.tokenizer[:12]}, {first.ledger.tokenizer[:12]}); prepare both"
                " with the same --tokenizer"
            )
        same = folders.setdefault(store.ledger.digest, store)
        if same is not store:
            raise BadInputError(
                f"data.stores: {store.folder} and {same.folder} are the same store; write it once,"
                " with the sum of the fractions"
            )


def _quotas(weights: Sequence[float], names: Sequence[str]) -> tuple[int, ...]:
    """Round to whole rows of a block, by largest remainder."""
    exact = np.array(weights, np.float64) / sum(weights) * BLOCK
    quotas = exact.astype(np.int64)
    largest = np.argsort(quotas - exact, kind="stable")[: BLOCK - int(quotas.sum())]
    quotas[largest] += 1
    if not quotas.all():
        name = names[int(np.argmin(quotas))]
        raise BadInputError(
            f"data.stores: {name} would supply less than one of {BLOCK:,} rows; raise its fraction"
            " or epochs, or remove it"
        )
    return tuple(quotas.tolist())


@lru_cache(maxsize=4)
def _block(
    quotas: tuple[int, ...], seed: int, length: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the store of each row of a block, and the number of the row in its store."""
    stores = np.repeat(np.arange(len(quotas)), quotas)
    ranks = np.concatenate([np.arange(quota) for quota in quotas])
    key = counter_rng.key(seed, block, length, _JITTER)
    jitter = counter_rng.uniform(counter_rng.bits(key, np.arange(BLOCK, dtype=np.uint64)))
    per_block = np.array(quotas)[stores]
    # Integers with the row in their last digits: sorting them is faster than an argsort, and no
    # two are equal.
    place = ((ranks + jitter) / per_block * 2.0**_PLACE_BITS).astype(np.int64)
    order = np.sort((place << _ROW_BITS) + np.arange(BLOCK)) & ((1 << _ROW_BITS) - 1)
    return stores[order], (block * per_block + ranks)[order]
