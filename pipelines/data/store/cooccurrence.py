"""Which tokens of a store occur near each other, and a vector of each token from these counts.

Counts are sparse, so that memory grows with the number of different pairs: 1.2 GiB for 88 million
tokens of 30,522 kinds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from bert_jax.runtime.console import progress
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.memory import physical_memory
from pipelines.data.store.token_store import Split, Store

_SAMPLE = 100_000_000  # tokens to count, which takes about a minute
_CHUNK = 1 << 23  # tokens that are counted at a time
_DISTANCE = 2  # tokens up to which two are near each other
# Smoothing of the context frequencies, as in Levy et al. 2015, section 3.1.
_CONTEXT_POWER = 0.75
_OVERSAMPLING, _ITERATIONS = 24, 3
# Arrays of the size of the vectors that exist at the same time, at most.
_COPIES = 6


class Counts(NamedTuple):
    """How often tokens and pairs occur, in a sample of the training text."""

    tokens: np.ndarray  # float64 [V]
    pairs: sparse.csr_array  # float32 [V, V]: the second within two tokens after the first


def count(stores: Collection[tuple[float, Store]], seed: int) -> Counts:
    """Count the training tokens of each store, and the pairs of tokens that are near each other.

    At most 100 million tokens are read: whole shards, in an order that depends on `seed`.

    Args:
        stores: Each with the fraction of the training rows that come from it; of one vocabulary.
        seed: Of the run.
    """
    (vocab_size,) = {store.ledger.vocab_size for _, store in stores}
    splits = [(fraction, store.split("train")) for fraction, store in stores]
    sizes = [min(split.tokens, round(_SAMPLE * fraction)) for fraction, split in splits]
    tokens, pairs = np.zeros(vocab_size), sparse.csr_array((vocab_size, vocab_size), dtype="f4")
    done = 0
    with progress("counting tokens", sum(sizes)) as show:
        for (fraction, split), size in zip(splits, sizes, strict=True):
            weight = fraction * sum(sizes) / max(size, 1)
            for chunk in _sample(split, size, seed):
                tokens += weight * np.bincount(chunk, minlength=vocab_size)
                for distance in range(1, _DISTANCE + 1):
                    pairs = pairs + weight * _pairs(chunk, distance, vocab_size)
                done += len(chunk)
                show(done, "")
    return Counts(tokens, pairs)


def _sample(split: Split, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `size` tokens of whole shards, the last one cut, in chunks."""
    shards = [tokens for _, tokens in split.shards()]
    for number in np.random.default_rng(seed).permutation(len(shards)):
        taken = shards[number][:size]
        size -= len(taken)
        for start in range(0, len(taken), _CHUNK):
            yield taken[start : start + _CHUNK].astype(np.int32)


def _pairs(tokens: np.ndarray, distance: int, vocab_size: int) -> sparse.csr_array:
    """Count the pairs of tokens at one distance, [V, V]."""
    first, second = tokens[:-distance], tokens[distance:]
    ones = np.ones(len(first), np.float32)
    return sparse.coo_array((ones, (first, second)), shape=(vocab_size,) * 2).tocsr()


def check_memory(vocab_size: int, dimensions: int) -> None:
    """Refuse vectors that do not fit into memory.

    Raises:
        BadInputError: They would take more memory than this machine has.
    """
    needed = _COPIES * 4 * vocab_size * (dimensions + _OVERSAMPLING)
    memory = physical_memory()
    if needed > memory:
        raise BadInputError(
            f"model.initialization corpus needs about {needed / 2**30:.0f} GiB of memory for a"
            f" vocabulary of {vocab_size:,}, and this machine has {memory / 2**30:.0f}; use"
            " model.initialization normal or a smaller vocabulary"
        )


def vectors(pairs: sparse.csr_array, dimensions: int, seed: int) -> np.ndarray:
    """Return a vector of each token, float32 [V, K], zero for tokens without a pair.

    The factors of the positive pointwise mutual information of tokens and contexts, as in Levy et
    al. 2015 (https://aclanthology.org/Q15-1016), with the square root of the singular values.

    Args:
        pairs: As in `Counts`.
        dimensions: K.
        seed: Of the random projection (Halko et al. 2011).

    Raises:
        BadInputError: Fewer than K tokens have a pair.
    """
    information = _positive_information((pairs + pairs.T).tocsr())
    has_pair = np.diff(information.indptr) > 0  # [V]
    if (present := np.count_nonzero(has_pair)) < dimensions:
        raise BadInputError(
            f"the training text is too small to count for model.initialization corpus: {present:,}"
            f" different tokens, and this network needs {dimensions:,}; use a larger store or"
            " model.initialization normal"
        )
    left, scales, _ = randomized_svd(
        information,
        dimensions,
        n_oversamples=_OVERSAMPLING,
        n_iter=_ITERATIONS,
        random_state=seed,
    )
    return np.where(has_pair[:, None], left * np.sqrt(scales), 0).astype(np.float32)


def _positive_information(pairs: sparse.csr_array) -> sparse.csr_array:
    """Return the positive pointwise mutual information of symmetric counts, [V, V], symmetric."""
    frequencies = pairs.sum(axis=1) + 1.0  # [V]
    contexts = frequencies**_CONTEXT_POWER
    contexts /= contexts.sum()
    table = pairs.tocoo()
    information = np.log(table.data / (frequencies[table.row] * contexts[table.col]))
    positive = information > 0
    # As numbers of 4 bytes: the product with the vectors takes half as long.
    entries = information[positive].astype(np.float32), (table.row[positive], table.col[positive])
    half = sparse.csr_array(entries, shape=pairs.shape) * np.float32(0.5)
    return (half + half.T).tocsr()
