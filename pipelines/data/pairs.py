"""Which spans of the corpus become the segments A and B of a training pair.

The rules are those of google-research/bert's ``create_pretraining_data.py``, computed for all
documents at once from sentence lengths alone; no text is read. One departure: where that code gives
up finding another document after ten draws and calls a pair from the same document random, the
other document is drawn from all others, so a random pair always comes from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from pipelines.data import keyed
from pipelines.data.store import Split

SPECIALS_PER_PAIR = 3  # [CLS] A [SEP] B [SEP]

# Documents that are advanced together: their offsets stay in the cache.
_BLOCK = 1 << 15

# Names of the random draws; each has its own stream.
_SHORT, _TARGET, _SPLIT, _RANDOM, _DOCUMENT, _SENTENCE, _TRIM_A, _TRIM_B = range(8)


@dataclass(frozen=True)
class Pairs:
    """Spans of tokens of a split; every array is [N].

    Attributes:
        a_start: int64: first token of A.
        a_length: int32: tokens of A, at least 1.
        b_start: int64: first token of B.
        b_length: int32: tokens of B, at least 1.
        is_random: bool: B comes from another document (next sentence label 1).
    """

    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    is_random: np.ndarray

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.a_start)

    def __getitem__(self, index: np.ndarray | slice) -> Pairs:
        """The pairs at `index`."""
        return Pairs(*(getattr(self, field.name)[index] for field in fields(self)))


def plan(split: Split, seed: int, epoch: int, length: int, short_seq_prob: float) -> Pairs:
    """All pairs of one pass over a split with at least two documents.

    Args:
        split: Where the sentences are.
        seed: Of the run.
        epoch: Number of the pass; another one cuts other pairs.
        length: Tokens of a sequence, the three special ones included.
        short_seq_prob: Share of the documents that aim at a shorter sequence in this pass.

    Returns:
        The pairs, in the order of the corpus.
    """
    key = keyed.key(seed, epoch, length)
    room = length - SPECIALS_PER_PAIR
    parts = [
        _cut(split, key, np.arange(start, min(start + _BLOCK, split.documents)), room, target)
        for start in range(0, split.documents, _BLOCK)
        for target in [_targets(key, start, split.documents, room, short_seq_prob)]
    ]
    return Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _targets(
    key: np.ndarray, start: int, documents: int, room: int, short_seq_prob: float
) -> np.ndarray:
    """How many tokens the pairs of each document aim at; drawn once per document and pass."""
    document = np.arange(start, min(start + _BLOCK, documents)).astype(np.uint64)
    short = keyed.uniform(_draw(key, _SHORT, document)) < short_seq_prob
    shorter = 2 + keyed.below(_draw(key, _TARGET, document), room - 1)
    return np.where(short, np.minimum(shorter, room), room)


def _cut(
    split: Split, key: np.ndarray, document: np.ndarray, room: int, target: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Cuts some documents into pairs, one pair of every unfinished document at a time."""
    offsets = split.sentence_offsets
    first = split.document_offsets[document]
    end = split.document_offsets[document + 1]
    rounds = []
    while len(document):
        # The chunk: sentences until the target is reached or the document ends.
        goal = offsets[first] + target
        stop = np.minimum(np.searchsorted(offsets, goal), end)
        sentences = stop - first
        counter = first.astype(np.uint64)  # a chunk is named by its first sentence
        to_a = np.maximum(1, 1 + keyed.below(_draw(key, _SPLIT, counter), sentences - 1))
        a_stop = first + to_a
        a_tokens = offsets[a_stop] - offsets[first]
        is_random = (sentences == 1) | (keyed.uniform(_draw(key, _RANDOM, counter)) < 0.5)

        b_first, b_stop = a_stop.copy(), stop.copy()
        b_first[is_random], b_stop[is_random] = _elsewhere(
            split, key, counter[is_random], document[is_random], (target - a_tokens)[is_random]
        )
        b_tokens = offsets[b_stop] - offsets[b_first]
        spans = _truncate(key, counter, offsets[first], a_tokens, offsets[b_first], b_tokens, room)
        rounds.append((counter, *spans, is_random))

        # After a random B the sentences that followed A are used again.
        first = np.where(is_random, a_stop, stop)
        going_on = first < end
        first, end, document, target = (x[going_on] for x in (first, end, document, target))
    counters, *arrays = (np.concatenate(part) for part in zip(*rounds, strict=True))
    order = np.argsort(counters)
    return tuple(array[order] for array in arrays)


def _elsewhere(
    split: Split, key: np.ndarray, counter: np.ndarray, document: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last sentence of a span of another document, about `target` tokens long.

    It begins at any sentence and has at least one, also where `target` is not positive.
    """
    other = keyed.below(_draw(key, _DOCUMENT, counter), split.documents - 1)
    other += other >= document
    start, end = split.document_offsets[other], split.document_offsets[other + 1]
    first = start + keyed.below(_draw(key, _SENTENCE, counter), end - start)
    goal = split.sentence_offsets[first] + np.maximum(target, 1)
    return first, np.minimum(np.searchsorted(split.sentence_offsets, goal), end)


def _truncate(
    key: np.ndarray,
    counter: np.ndarray,
    a_start: np.ndarray,
    a: np.ndarray,
    b_start: np.ndarray,
    b: np.ndarray,
    room: int,
) -> tuple[np.ndarray, ...]:
    """Shortens each pair to `room` tokens.

    One token at a time is taken from the longer side (B if they are equal), from its front or its
    back with equal chance; so the number taken from the front is binomial.
    """
    excess = np.maximum(a + b - room, 0)
    uneven = np.minimum(excess, np.abs(a - b))
    rest = excess - uneven
    from_a = np.where(a > b, uneven, 0) + rest // 2
    from_b = np.where(a > b, 0, uneven) + (rest + 1) // 2
    front_a = keyed.binomial_half(_draw(key, _TRIM_A, counter), from_a)
    front_b = keyed.binomial_half(_draw(key, _TRIM_B, counter), from_b)
    return (
        a_start + front_a,
        (a - from_a).astype(np.int32),
        b_start + front_b,
        (b - from_b).astype(np.int32),
    )


def _draw(key: np.ndarray, name: int, counter: np.ndarray) -> np.ndarray:
    return keyed.bits(keyed.key(key, name), counter)
