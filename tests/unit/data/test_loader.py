"""Batches as a pure function of (store, config, step)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config.run import Phase, RunConfig
from bert_jax.training.batch import FIELDS, Batch, BatchShape
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.batches.pairs import plan
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store


@pytest.fixture
def data(store: Store, config: RunConfig) -> PretrainingData:
    return PretrainingData(store, config)


def equal(first: Batch, second: Batch) -> bool:
    same = (np.array_equal(first.arrays[name], second.arrays[name]) for name in FIELDS)
    return first.tokens == second.tokens and all(same)


def test_a_batch_has_the_documented_shapes_and_layout(data: PretrainingData, store: Store) -> None:
    batch = data.batch_at(0)
    arrays = batch.arrays
    expected = BatchShape(rows=8, length=32, predictions=5).fields()
    assert data.shapes(32, 8) == [expected]
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == expected
    tokenizer = store.tokenizer
    ids, segments, mask = arrays["token_ids"], arrays["token_type_ids"], arrays["segment_ids"] == 1
    assert (ids[:, 0] == tokenizer.cls_id).all()
    assert ((ids == tokenizer.sep_id).sum(axis=1) == 2).all()
    assert (ids[~mask] == tokenizer.pad_id).all()
    assert mask.sum() == batch.tokens
    for row in range(8):
        first, second = np.flatnonzero(ids[row] == tokenizer.sep_id)
        expected = (np.arange(32) > first) & (np.arange(32) <= second)
        assert (segments[row] == expected).all()
        assert mask[row].sum() == second + 1


def test_the_tokens_are_those_of_the_text(
    data: PretrainingData, store: Store, corpus: Path
) -> None:
    text = " ".join(corpus.read_text("utf-8").lower().split())
    tokenizer = store.tokenizer
    for step in range(5):
        arrays = data.batch_at(step).arrays
        ids = arrays["token_ids"].copy()
        used = arrays["mlm_weights"] > 0
        rows = np.broadcast_to(np.arange(8)[:, None], used.shape)
        ids[rows[used], arrays["mlm_positions"][used]] = arrays["mlm_targets"][used]
        for row in range(8):
            first, second = np.flatnonzero(ids[row] == tokenizer.sep_id)
            for segment in (ids[row, 1:first], ids[row, first + 1 : second]):
                assert tokenizer.decode(segment).strip() in text


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_processes_share_one_batch(data: PretrainingData, processes: int) -> None:
    for step in (0, 7, 19):
        whole = data.batch_at(step)
        size = 8 // processes
        parts = [data.batch_at(step, slice(p * size, (p + 1) * size)) for p in range(processes)]
        for name in FIELDS:
            joined = np.concatenate([part.arrays[name] for part in parts])
            assert np.array_equal(joined, whole.arrays[name])
        assert {part.tokens for part in parts} == {whole.tokens}


def test_any_step_can_be_made_alone(data: PretrainingData, store: Store, config: RunConfig) -> None:
    streamed = list(data.batches(0, 20))
    assert len(streamed) == 20
    fresh = PretrainingData(store, config)
    for step in (19, 3, 11):
        assert equal(fresh.batch_at(step), streamed[step])
    later = list(data.batches(15, 20))
    assert all(equal(a, b) for a, b in zip(later, streamed[15:], strict=True))


def test_an_epoch_uses_every_pair_and_the_next_epoch_has_new_masks(
    store: Store, config: RunConfig
) -> None:
    data = PretrainingData(store, replace(config, phases=(Phase(length=32, steps=400),)))
    examples = data.examples(32)
    size = len(examples)
    examples_of_epoch = examples.at(np.arange(size))
    assert len(set(examples_of_epoch.key.tolist())) == size
    pairs = plan(store.split("train"), config.seed, 0, 32, config.data.short_seq_prob)
    assert sorted(examples_of_epoch.pairs.a_start.tolist()) == pairs.a_start.tolist()
    overlap = examples.at(np.arange(size - 3, size + 5))
    assert set(overlap.key[:3].tolist()) <= set(examples_of_epoch.key.tolist())
    assert set(overlap.key[3:].tolist()).isdisjoint(examples_of_epoch.key.tolist())


def test_held_out_text_is_not_trained_on(data: PretrainingData, store: Store) -> None:
    """Held-out documents have few tokens in common with the others; a random B repeats some."""
    tokens = sum(batch.tokens for batch in data.held_out(32, 8))
    held_out, train = (store.ledger.total(split, "tokens") for split in ("heldout", "train"))
    assert held_out / 2 < tokens < 3 * held_out < train / 2


def test_phases_of_one_length_go_on_through_the_text(store: Store, config: RunConfig) -> None:
    whole = PretrainingData(store, replace(config, phases=(Phase(length=32, steps=9),)))
    parts = (Phase(length=32, steps=4), Phase(length=16, steps=2), Phase(length=32, steps=3))
    cut = PretrainingData(store, replace(config, phases=parts))
    assert equal(cut.batch_at(6), whole.batch_at(4))
    assert cut.batch_at(4).arrays["token_ids"].shape == (8, 16)


def test_another_seed_gives_other_batches(store: Store, config: RunConfig) -> None:
    first = PretrainingData(store, config).batch_at(0)
    other_seed = PretrainingData(store, replace(config, seed=1)).batch_at(0)
    assert not equal(first, other_seed)


def test_held_out_text_is_evaluated_once_for_any_batch_size(
    store: Store, config: RunConfig
) -> None:
    data = PretrainingData(store, config)
    for size in (3, 8):
        batches = list(data.held_out(32, size))
        weights = np.concatenate([batch.arrays["nsp_weights"][:, 0] for batch in batches])
        rows = np.concatenate([batch.arrays["token_ids"] for batch in batches])[weights > 0]
        assert weights[: int(weights.sum())].all()
        if size == 3:
            expected = rows
        assert np.array_equal(rows, expected)
    assert len(list(data.held_out(32, 3, limit=2))) == 2
    # Runs with other seeds are measured on the same masks.
    other_seed = next(iter(PretrainingData(store, replace(config, seed=9)).held_out(32, 3)))
    assert np.array_equal(other_seed.arrays["token_ids"], expected[:3])


def test_an_example_without_a_second_segment_may_end_the_store(
    tokenizer_dir: Path, config: RunConfig, tmp_path: Path
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join([f"{n} is told.\nIt is." for n in range(9)] + ["The end."]))
    prepare([f"text:{text}"], tokenizer_dir, tmp_path / "store", 0.0)
    data = replace(config.data, objective="sop", store=str(tmp_path / "store"))
    loader = PretrainingData(Store(tmp_path / "store"), replace(config, data=data))
    weights = np.concatenate([loader.batch_at(step).arrays["nsp_weights"] for step in range(20)])
    assert 0 < (weights == 0).mean() < 0.5
