"""Sentence pairs, against a plain implementation of the rules of google-research/bert."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.data.batches.pairs import Pairs, _truncate, plan
from pipelines.data.store.token_store import Store
from support.pair_reference import reference


def split_of(documents: list[list[int]]) -> SimpleNamespace:
    """The offsets of a split, from the sentence lengths of each document."""
    lengths = [length for document in documents for length in document]
    return SimpleNamespace(
        documents=len(documents),
        sentence_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_offsets=np.concatenate([[0], np.cumsum([len(d) for d in documents])]),
    )


@pytest.fixture(scope="module")
def documents() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 50, rng.integers(1, 40)).tolist() for _ in range(3000)]


@pytest.fixture(scope="module")
def pairs(documents: list[list[int]]) -> Pairs:
    return plan(split_of(documents), seed=1, epoch=0, length=128, short_seq_prob=0.1)


def document_of(split: SimpleNamespace, token: np.ndarray) -> np.ndarray:
    sentence = np.searchsorted(split.sentence_offsets, token, side="right") - 1
    return np.searchsorted(split.document_offsets, sentence, side="right") - 1


def test_every_span_fits_and_stays_in_its_document(
    documents: list[list[int]], pairs: Pairs
) -> None:
    split = split_of(documents)
    assert (pairs.a_length >= 1).all()
    assert (pairs.b_length >= 1).all()
    assert (pairs.a_length + pairs.b_length <= 125).all()
    a, b = document_of(split, pairs.a_start), document_of(split, pairs.b_start)
    assert (a == document_of(split, pairs.a_start + pairs.a_length - 1)).all()
    assert (b == document_of(split, pairs.b_start + pairs.b_length - 1)).all()
    assert (a[~pairs.not_next] == b[~pairs.not_next]).all()
    assert (a[pairs.not_next] != b[pairs.not_next]).all()
    assert (pairs.b_start[~pairs.not_next] > pairs.a_start[~pairs.not_next]).all()


def test_every_document_is_used_once_through(documents: list[list[int]], pairs: Pairs) -> None:
    split = split_of(documents)
    assert set(document_of(split, pairs.a_start)) == set(range(len(documents)))
    assert (np.diff(pairs.a_start) > 0).all()


def test_single_sentence_chunks_are_always_random() -> None:
    alone = split_of([[7]] * 50)
    planned = plan(alone, seed=0, epoch=0, length=64, short_seq_prob=0.0)
    assert len(planned) == 50
    assert planned.not_next.all()


def test_fractions_are_those_of_the_reference(documents: list[list[int]], pairs: Pairs) -> None:
    """Compare statistics with a plain loop over the published rules, on the same documents."""
    expected = reference(documents, 128, 0.1, np.random.default_rng(5))
    lengths = np.array([a + b for a, b, _ in expected])
    assert len(pairs) == pytest.approx(len(expected), rel=0.02)
    assert pairs.not_next.mean() == pytest.approx(np.mean([r for *_, r in expected]), abs=0.01)
    assert pairs.not_next.mean() > 0.5
    assert pairs.a_length.mean() == pytest.approx(np.mean([a for a, *_ in expected]), rel=0.02)
    planned_lengths = pairs.a_length + pairs.b_length
    for share in (0.05, 0.1, 0.25, 0.5, 0.75):
        assert np.quantile(planned_lengths, share) == pytest.approx(
            np.quantile(lengths, share), abs=3
        )


def test_truncation_takes_from_the_longer_side_as_one_by_one() -> None:
    sizes = np.random.default_rng(0).integers(1, 300, (2000, 2))
    counter = np.arange(2000, dtype=np.uint64)
    zero = np.zeros(2000, np.int64)
    a_start, a, b_start, b = _truncate(
        np.uint64(1), counter, zero, sizes[:, 0], zero, sizes[:, 1], 125
    )
    for row, (a_tokens, b_tokens) in enumerate(sizes.tolist()):
        while a_tokens + b_tokens > 125:
            if a_tokens > b_tokens:
                a_tokens -= 1
            else:
                b_tokens -= 1
        assert (a[row], b[row]) == (a_tokens, b_tokens)
    removed = sizes[:, 0] - a
    assert (a_start <= removed).all()
    assert a_start.sum() / removed.sum() == pytest.approx(0.5, abs=0.01)
    assert b_start.sum() / (sizes[:, 1] - b).sum() == pytest.approx(0.5, abs=0.01)


def test_another_epoch_has_other_pairs_and_the_same_epoch_the_same(store: Store) -> None:
    split = store.split("train")
    first, again, second = (plan(split, 0, epoch, 32, 0.1) for epoch in (0, 0, 1))
    assert all((getattr(first, n) == getattr(again, n)).all() for n in Pairs.__dataclass_fields__)
    assert len(second) != len(first) or (second.b_start != first.b_start).any()


def test_short_targets_are_drawn_once_per_document() -> None:
    split = split_of([[10] * 200] * 400)
    planned = plan(split, seed=3, epoch=0, length=128, short_seq_prob=0.5)
    total = planned.a_length + planned.b_length
    document = document_of(split, planned.a_start)
    longest = np.zeros(400, np.int64)
    np.maximum.at(longest, document, total)
    # A document whose target is short has no full pair at all.
    assert np.mean(longest < 110) == pytest.approx(0.5 * 100 / 124, abs=0.08)


def test_sentence_order_swaps_half_of_the_pairs(
    documents: list[list[int]],
) -> None:
    split = split_of(documents)
    planned = plan(split, 1, 0, 128, 0.1, "sop")
    pairs = planned[planned.b_length > 0]
    a, b = document_of(split, pairs.a_start), document_of(split, pairs.b_start)
    assert (a == b).all()
    assert ((pairs.b_start < pairs.a_start) == pairs.not_next).all()
    assert pairs.not_next.mean() == pytest.approx(0.5, abs=0.02)
    # Only what is left of a document when one sentence is left has no second segment.
    alone = planned[planned.b_length == 0]
    assert not alone.not_next.any()
    lasts = split.document_offsets[1:][document_of(split, alone.a_start)] - 1
    sentence = np.searchsorted(split.sentence_offsets, alone.a_start, side="right") - 1
    assert (sentence == lasts).all()
    assert (planned.length <= 128).all()


def test_without_next_sentence_prediction_every_token_is_used(
    documents: list[list[int]],
) -> None:
    split = split_of(documents)
    planned = plan(split, 1, 0, 64, 0.1, "mlm")
    assert not planned.b_length.any()
    assert not planned.not_next.any()
    assert (planned.length <= 64).all()
    assert np.isin(planned.a_start, split.sentence_offsets).all()
    assert np.isin(planned.a_start + planned.a_length, split.sentence_offsets).all()
    assert planned.a_length.sum() == split.sentence_offsets[-1]
    # The next sentence would not have fitted, or there is none in the document.
    last = np.searchsorted(split.sentence_offsets, planned.a_start + planned.a_length)
    goes_on = ~np.isin(last, split.document_offsets)
    sizes = np.diff(split.sentence_offsets)
    assert (planned.a_length[goes_on] + sizes[last[goes_on]] > 62).all()
    long = plan(split_of([[500, 3], [4]]), 1, 0, 64, 0.0, "mlm")
    assert long.a_length.tolist() == [62, 3, 4]
