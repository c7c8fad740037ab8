"""Select the spans of the corpus for the segments A and B of the training examples.

The rules are those of google-research/bert's ``create_pretraining_data.py``, computed for all
documents at once from the lengths of sentences; no text is read. One difference: that code gives up
after ten draws of another document, and then labels a pair from the same document as random. Here
the other document is drawn from all others, so a random pair always has two documents.

Two more objectives cut the same store differently: "sop" (ALBERT, section 3.1: B follows A, or the
two are swapped) and "mlm" (one segment of whole sentences of one document, like DOC-SENTENCES of
RoBERTa). An example without B has no label.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from pipelines.data.batches import counter_rng
from pipelines.data.store.token_store import Split

Objective = Literal["nsp", "sop", "mlm"]

SPECIALS_PER_PAIR = 3  # [CLS] A [SEP] B [SEP]
SPECIALS_OF_ONE = 2  # [CLS] A [SEP]

# Documents that are processed together, so few that their offsets stay in the cache.
_BLOCK = 1 << 15

# The random draws; each has its own stream.
_SHORT, _TARGET, _SPLIT, _RANDOM, _DOCUMENT, _SENTENCE, _TRIM_A, _TRIM_B = range(8)


@dataclass(frozen=True)
class Pairs:
    """Spans of tokens of a split; every array is [N].

    Attributes:
        a_start: int64: first token of A.
        a_length: int32: tokens of A, at least 1.
        b_start: int64: first token of B.
        b_length: int32: tokens of B; 0 if there is none.
        not_next: bool: B does not follow A (next sentence label 1).
    """

    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    not_next: np.ndarray

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.a_start)

    def __getitem__(self, index: np.ndarray | slice) -> Pairs:
        """Return the examples at `index`."""
        return Pairs(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def length(self) -> np.ndarray:
        """int32 [N]: tokens of the whole sequence, special ones included."""
        specials = np.where(self.b_length > 0, SPECIALS_PER_PAIR, SPECIALS_OF_ONE)
        return (self.a_length + self.b_length + specials).astype(np.int32)


def plan(
    split: Split,
    seed: int,
    epoch: int,
    length: int,
    short_seq_prob: float,
    objective: Objective = "nsp",
    window: tuple[int, int] | None = None,
) -> Pairs:
    """Cut (a window of) a split into the examples of one epoch.

    Args:
        split: The documents.
        seed: Seed of the run.
        epoch: Number of the epoch; each epoch has different pairs.
        length: Tokens per sequence, special ones included.
        short_seq_prob: Fraction of the documents with a shorter target length in this epoch.
        objective: Determines B.
        window: First and one-past-last document, at least two; random ones come from it as well.

    Returns:
        The examples, in the order of the corpus.
    """
    key = counter_rng.key(seed, epoch, length)
    first, end = window or (0, split.documents)
    parts = []
    for start in range(first, end, _BLOCK):
        document = np.arange(start, min(start + _BLOCK, end))
        if objective == "mlm":
            parts.append(_cut_singles(split, key, document, length - SPECIALS_OF_ONE))
            continue
        room = length - SPECIALS_PER_PAIR
        target = _targets(key, document, room, short_seq_prob)
        parts.append(_cut(split, key, document, room, target, objective, (first, end)))
    columns = [list(column) for column in zip(*parts, strict=True)]
    parts.clear()  # one field at a time, so that memory never contains everything twice
    return Pairs(*(np.concatenate(columns.pop(0)) for _ in fields(Pairs)))


def _targets(key: np.ndarray, document: np.ndarray, room: int, short_seq_prob: float) -> np.ndarray:
    """Draw the target length of the pairs of each document, once per document and epoch."""
    counter = document.astype(np.uint64)
    short = counter_rng.uniform(_draw(key, _SHORT, counter)) < short_seq_prob
    shorter = 2 + counter_rng.below(_draw(key, _TARGET, counter), room - 1)
    return np.where(short, np.minimum(shorter, room), room)


def _cut(
    split: Split,
    key: np.ndarray,
    document: np.ndarray,
    room: int,
    target: np.ndarray,
    objective: Objective,
    window: tuple[int, int],
) -> tuple[np.ndarray, ...]:
    """Cut documents into pairs, one pair of every unfinished document at a time."""
    offsets = split.sentence_offsets
    first = split.document_offsets[document]
    end = split.document_offsets[document + 1]
    rounds = []
    while len(document):
        # The chunk: sentences until the target is reached or the document ends.
        stop = np.minimum(np.searchsorted(offsets, offsets[first] + target), end)
        if objective == "sop":
            stop = np.maximum(stop, np.minimum(first + 2, end))
        sentences = stop - first
        counter = first.astype(np.uint64)  # the first sentence identifies a chunk
        a_stop = first + np.maximum(
            1, 1 + counter_rng.below(_draw(key, _SPLIT, counter), sentences - 1)
        )
        a_tokens = offsets[a_stop] - offsets[first]
        not_next = counter_rng.uniform(_draw(key, _RANDOM, counter)) < 0.5

        b_first, b_stop = a_stop.copy(), stop.copy()
        if objective == "nsp":
            not_next |= sentences == 1
            b_first[not_next], b_stop[not_next] = _random_spans(
                split, key, counter[not_next], document[not_next], (target - a_tokens)[not_next],
                window,
            )  # fmt: skip
        else:
            not_next &= sentences > 1
        b_tokens = offsets[b_stop] - offsets[b_first]
        spans = _truncate(key, counter, offsets[first], a_tokens, offsets[b_first], b_tokens, room)
        if objective == "sop":
            spans = _swapped(spans, not_next)
        rounds.append((counter, *spans, not_next))

        # After a random B, the sentences that followed A are used again.
        first = np.where(not_next, a_stop, stop) if objective == "nsp" else stop
        unfinished = first < end
        first, end, document, target = (x[unfinished] for x in (first, end, document, target))
    return _in_order(rounds)


def _cut_singles(
    split: Split, key: np.ndarray, document: np.ndarray, room: int
) -> tuple[np.ndarray, ...]:
    """Cut documents into runs of whole sentences; a sentence longer than `room` is trimmed."""
    offsets = split.sentence_offsets
    first = split.document_offsets[document]
    end = split.document_offsets[document + 1]
    rounds = []
    while len(first):
        fitting = np.searchsorted(offsets, offsets[first] + room, side="right") - 1
        stop = np.minimum(np.maximum(fitting, first + 1), end)
        counter = first.astype(np.uint64)
        tokens = offsets[stop] - offsets[first]
        none = np.zeros_like(tokens)
        spans = _truncate(key, counter, offsets[first], tokens, none, none, room)
        rounds.append((counter, *spans, none.astype(bool)))
        first, end = stop[stop < end], end[stop < end]
    return _in_order(rounds)


def _in_order(rounds: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Concatenate the rounds and sort the examples in the order of the corpus."""
    counters, *arrays = (np.concatenate(part) for part in zip(*rounds, strict=True))
    order = np.argsort(counters)
    return tuple(array[order] for array in arrays)


def _swapped(spans: tuple[np.ndarray, ...], swap: np.ndarray) -> tuple[np.ndarray, ...]:
    a_start, a, b_start, b = spans
    return (
        np.where(swap, b_start, a_start),
        np.where(swap, b, a),
        np.where(swap, a_start, b_start),
        np.where(swap, a, b),
    )


def _random_spans(
    split: Split,
    key: np.ndarray,
    counter: np.ndarray,
    document: np.ndarray,
    target: np.ndarray,
    window: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a span of about `target` tokens from another document.

    It begins at any sentence and has at least one, even if `target` is not positive.

    Returns:
        First and one-past-last sentence.
    """
    low, high = window
    other = low + counter_rng.below(_draw(key, _DOCUMENT, counter), high - low - 1)
    other += other >= document
    start, end = split.document_offsets[other], split.document_offsets[other + 1]
    first = start + counter_rng.below(_draw(key, _SENTENCE, counter), end - start)
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
    """Truncate each pair to `room` tokens.

    One token at a time is removed from the longer segment (B if they are equal), from its front or
    its back with equal probability. So the number removed from the front is binomial.
    """
    excess = np.maximum(a + b - room, 0)
    uneven = np.minimum(excess, np.abs(a - b))
    rest = excess - uneven
    from_a = np.where(a > b, uneven, 0) + rest // 2
    from_b = np.where(a > b, 0, uneven) + (rest + 1) // 2
    front_a = counter_rng.binomial_half(_draw(key, _TRIM_A, counter), from_a)
    front_b = counter_rng.binomial_half(_draw(key, _TRIM_B, counter), from_b)
    return (
        a_start + front_a,
        (a - from_a).astype(np.int32),
        b_start + front_b,
        (b - from_b).astype(np.int32),
    )


def _draw(key: np.ndarray, name: int, counter: np.ndarray) -> np.ndarray:
    return counter_rng.bits(counter_rng.key(key, name), counter)
