"""Masked language modeling: choose the tokens to predict and replace them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.data.batches import counter_rng

_CHOICE, _REPLACEMENT, _RANDOM_TOKEN = range(3)

MASKED, KEPT = 0.8, 0.1  # the remaining tenth becomes a random token


@dataclass(frozen=True)
class Predictions:
    """Positions to predict; every array is [B, P], unused slots are 0.

    Attributes:
        positions: int32, ascending.
        targets: int32: the original tokens.
        weights: float32: 1 where the slot is used.
    """

    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def mask_tokens(
    token_ids: np.ndarray,
    candidates: np.ndarray,
    lengths: np.ndarray,
    key: np.ndarray,
    slots: int,
    probability: float,
    mask_id: int,
    vocab_size: int,
    word_starts: np.ndarray | None = None,
) -> Predictions:
    """Choose the predictions of each sequence and replace their tokens in place.

    The rules are those of google-research/bert: round(probability x length) predictions (half to
    even), at least one and at most `slots`. Each becomes [MASK] (80%), stays (10%), or becomes a
    random token of the vocabulary, special ones included (10%).

    Args:
        token_ids: int32 [B, T]; changed.
        candidates: bool [B, T]: tokens that may be predicted (no special tokens, no padding).
        lengths: int [B]: tokens of the sequence, special ones included.
        key: uint64 [B]: determines all draws of a sequence.
        slots: P.
        probability: Fraction of the tokens to predict.
        mask_id: Id of [MASK].
        vocab_size: Exclusive upper bound of random tokens.
        word_starts: bool [V], to choose whole words. A word that would exceed the number of
            predictions is skipped, so there may be fewer. The replacement is still drawn for each
            token separately.
    """
    rounded = np.maximum(1, np.rint(lengths * probability).astype(np.int64))
    count = np.minimum(np.minimum(rounded, slots), candidates.sum(axis=1))
    if word_starts is None:
        positions = _choose(candidates, counter_rng.key(key, _CHOICE), count, slots)
    else:
        starts = candidates & (word_starts[token_ids] | ~np.roll(candidates, 1, axis=1))
        chosen = _choose_words(candidates, starts, counter_rng.key(key, _CHOICE), count)
        count = chosen.sum(axis=1)
        positions = _first_true(chosen, slots)
    used = np.arange(slots) < count[:, None]
    positions[~used] = 0
    rows = np.arange(len(token_ids))[:, None]
    targets = np.where(used, token_ids[rows, positions], 0)

    slot = np.arange(slots, dtype=np.uint64)
    draw = counter_rng.uniform(counter_rng.bits(counter_rng.key(key, _REPLACEMENT)[:, None], slot))
    random_tokens = counter_rng.below(
        counter_rng.bits(counter_rng.key(key, _RANDOM_TOKEN)[:, None], slot), vocab_size
    )
    kept_or_random = np.where(draw < MASKED + KEPT, targets, random_tokens)
    replacement = np.where(draw < MASKED, mask_id, kept_or_random)
    used_rows = np.broadcast_to(rows, used.shape)[used]
    token_ids[used_rows, positions[used]] = replacement[used]
    return Predictions(
        positions.astype(np.int32), targets.astype(np.int32), used.astype(np.float32)
    )


def _choose(candidates: np.ndarray, key: np.ndarray, count: np.ndarray, slots: int) -> np.ndarray:
    """Choose `count` random candidates of each row, ascending, in the first slots; int64 [B, P]."""
    B, T = candidates.shape
    # One sortable ticket per position: random high bits, the position in the low bits.
    position_bits = max(1, (T - 1).bit_length())
    words = counter_rng.bits(key[:, None], np.arange((T + 1) // 2, dtype=np.uint64))
    ticket = words.view(np.uint32).reshape(B, -1)[:, :T] >> np.uint32(position_bits)
    ticket = ticket << np.uint32(position_bits) | np.arange(T, dtype=np.uint32)
    ticket[~candidates] = np.iinfo(np.uint32).max
    slots = min(slots, T)
    chosen = np.sort(np.partition(ticket, slots - 1, axis=1)[:, :slots], axis=1)
    positions = (chosen & np.uint32((1 << position_bits) - 1)).astype(np.int64)
    positions[np.arange(slots) >= count[:, None]] = T
    return np.sort(positions, axis=1)


def _choose_words(
    candidates: np.ndarray, starts: np.ndarray, key: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Choose random words of each row with at most `count` tokens in total; bool [B, T]."""
    B, T = candidates.shape
    rows = np.arange(B)
    word = np.cumsum(starts, axis=1) - 1
    flat = (rows[:, None] * T + word)[candidates]
    sizes = np.bincount(flat, minlength=B * T).reshape(B, T)
    tickets = counter_rng.bits(key[:, None], np.arange(T, dtype=np.uint64))
    tickets[sizes == 0] = np.iinfo(np.uint64).max
    taken = np.zeros((B, T), bool)
    total = np.zeros(B, np.int64)
    # Whether a word fits depends on the words before it; the rows are independent.
    for words in np.argsort(tickets, axis=1).T:
        size = sizes[rows, words]
        fits = (size > 0) & (total + size <= count)
        taken[rows, words] = fits
        total += size * fits
        if (total == count).all():
            break
    return candidates & taken[rows[:, None], word]


def _first_true(chosen: np.ndarray, slots: int) -> np.ndarray:
    """Return the columns of the true elements of each row; int64 [B, P], unused slots 0."""
    positions = np.zeros((len(chosen), slots), np.int64)
    rows, columns = np.nonzero(chosen)
    firsts = np.searchsorted(rows, np.arange(len(chosen)))
    positions[rows, np.arange(len(rows)) - firsts[rows]] = columns
    return positions
