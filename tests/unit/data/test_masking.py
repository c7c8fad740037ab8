"""Masked language modeling, against the rules of google-research/bert."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.batches import counter_rng
from pipelines.data.batches.masking import Predictions, mask_tokens

VOCAB, MASK, CLS, SEP = 1000, 4, 2, 3


def masked(
    lengths: np.ndarray, width: int, slots: int, probability: float = 0.15, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, Predictions]:
    """Mask rows of [CLS] tokens [SEP] padding; return ids before and after, and predictions."""
    position = np.arange(width)
    token_ids = np.random.default_rng(1).integers(5, VOCAB, (len(lengths), width)).astype(np.int32)
    token_ids[:, 0] = CLS
    token_ids[position == lengths[:, None] - 1] = SEP
    token_ids[position >= lengths[:, None]] = 0
    candidates = (position > 0) & (position < lengths[:, None] - 1)
    before = token_ids.copy()
    key = counter_rng.key(seed, np.arange(len(lengths)))
    predictions = mask_tokens(token_ids, candidates, lengths, key, slots, probability, MASK, VOCAB)
    return before, token_ids, predictions


def test_the_number_of_predictions_is_rounded_half_to_even_and_bounded() -> None:
    lengths = np.array([3, 10, 30, 50, 70, 90, 128])
    _, _, predictions = masked(lengths, 128, 12)
    # 0.45→max 1; 1.5→2; 4.5→4; 7.5→8; 10.5→10; 13.5→14 and 19.2→19, both cut to the slots
    assert predictions.weights.sum(axis=1).tolist() == [1, 2, 4, 8, 10, 12, 12]


def test_slots_have_ascending_positions_and_the_original_tokens() -> None:
    lengths = np.random.default_rng(0).integers(3, 61, 500)
    before, after, predictions = masked(lengths, 61, 10)
    used = predictions.weights > 0
    rows = np.broadcast_to(np.arange(500)[:, None], used.shape)
    assert (predictions.targets[used] == before[rows[used], predictions.positions[used]]).all()
    assert (predictions.targets[~used] == 0).all()
    assert (predictions.positions[~used] == 0).all()
    steps = np.diff(predictions.positions, axis=1)[used[:, 1:]]
    assert (steps > 0).all()
    chosen = np.zeros(before.shape, bool)
    chosen[rows[used], predictions.positions[used]] = True
    assert (before == after)[~chosen].all()
    assert not np.isin(before[chosen], [0, CLS, SEP]).any()


def test_eighty_ten_ten_over_the_whole_vocabulary() -> None:
    _, after, predictions = masked(np.full(4000, 128), 128, 20)
    used = predictions.weights > 0
    rows = np.broadcast_to(np.arange(4000)[:, None], used.shape)
    replacement = after[rows[used], predictions.positions[used]]
    count = used.sum()
    assert count == 4000 * 19
    assert (replacement == MASK).sum() / count == pytest.approx(0.8, abs=0.005)
    assert (replacement == predictions.targets[used]).sum() / count == pytest.approx(0.1, abs=0.004)
    replaced = replacement[(replacement != MASK) & (replacement != predictions.targets[used])]
    # Special tokens are drawn too, and the draw does not stop at the largest id of the text.
    assert replaced.min() < 5
    assert replaced.max() >= VOCAB - 5
    assert replaced.mean() == pytest.approx(VOCAB / 2, rel=0.03)


def test_every_candidate_is_as_likely() -> None:
    _, _, predictions = masked(np.full(20_000, 34), 34, 5)
    counts = np.bincount(predictions.positions[predictions.weights > 0], minlength=34)
    assert counts[0] == counts[33] == 0
    expected = 20_000 * 5 / 32
    assert abs(counts[1:33] - expected).max() < 5 * expected**0.5


def test_masks_depend_on_the_key_alone() -> None:
    lengths = np.full(8, 40)
    _, first, _ = masked(lengths, 40, 6, seed=3)
    _, repeated, _ = masked(lengths, 40, 6, seed=3)
    _, other_seed, _ = masked(lengths, 40, 6, seed=4)
    assert (first == repeated).all()
    assert (first != other_seed).any(axis=1).all()


def test_more_predictions_than_candidates_are_not_made() -> None:
    _, _, predictions = masked(np.array([4, 5]), 8, 8, probability=0.99)
    assert predictions.weights.sum(axis=1).tolist() == [2, 3]


def words(
    lengths: np.ndarray, starts: np.ndarray, slots: int, seed: int = 0
) -> tuple[np.ndarray, Predictions]:
    """Mask whole words; return ids before, and predictions."""
    width = int(lengths.max())
    position = np.arange(width)
    token_ids = np.random.default_rng(2).integers(5, VOCAB, (len(lengths), width)).astype(np.int32)
    candidates = (position > 0) & (position < lengths[:, None] - 1)
    before = token_ids.copy()
    key = counter_rng.key(seed, np.arange(len(lengths)))
    predictions = mask_tokens(
        token_ids, candidates, lengths, key, slots, 0.15, MASK, VOCAB, word_starts=starts
    )
    return before, predictions


def test_whole_words_are_masked_together() -> None:
    starts = np.random.default_rng(0).random(VOCAB) < 0.6
    lengths = np.random.default_rng(1).integers(3, 129, 3000)
    before, predictions = words(lengths, starts, 20)
    position = np.arange(before.shape[1])
    candidates = (position > 0) & (position < lengths[:, None] - 1)
    begins = candidates & (starts[before] | (position == 1))
    word = np.cumsum(begins, axis=1)
    used = predictions.weights > 0
    chosen = np.zeros(before.shape, bool)
    rows = np.broadcast_to(np.arange(len(lengths))[:, None], used.shape)
    chosen[rows[used], predictions.positions[used]] = True
    assert not (chosen & ~candidates).any()
    same_word = candidates[:, 1:] & candidates[:, :-1] & (word[:, 1:] == word[:, :-1])
    assert (chosen[:, 1:] == chosen[:, :-1])[same_word].all()
    maximum = np.minimum(20, np.maximum(1, np.rint(lengths * 0.15)))
    count = used.sum(axis=1)
    assert (count <= maximum).all()
    # With so many words of one token, the number is nearly always reached.
    assert (count == maximum).mean() > 0.95
    assert np.array_equal(
        predictions.positions[used], np.sort(np.where(used, predictions.positions, 999))[used]
    )
    assert np.array_equal(
        predictions.targets[used], before[rows[used], predictions.positions[used]]
    )
    fractions = np.nonzero(chosen)[1] / lengths[np.nonzero(chosen)[0]]
    assert fractions.mean() == pytest.approx(0.5, abs=0.01)


def test_words_that_do_not_fit_are_skipped() -> None:
    """The published loop gives the same number of predictions on average."""
    rng = np.random.default_rng(0)
    starts = rng.random(VOCAB) < 0.3
    lengths = np.full(2000, 66)
    before, predictions = words(lengths, starts, 10)
    counts = []
    for row in before:
        groups: list[int] = []
        for position in range(1, 65):
            if groups and not starts[row[position]]:
                groups[-1] += 1
            else:
                groups.append(1)
        total = 0
        for size in rng.permutation(groups):
            total += size if total + size <= 10 else 0
        counts.append(total)
    assert predictions.weights.sum(axis=1).mean() == pytest.approx(np.mean(counts), abs=0.05)
