"""Packing: no sequence lost, little padding, and the same losses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config.run import DataConfig, Phase, RunConfig
from bert_jax.nn.encoder import define, init_params
from bert_jax.training.batch import FIELDS, PACKED_FIELDS
from bert_jax.training.losses import cross_entropy
from bert_jax.training.step import forward
from pipelines.data.batches.examples import Examples
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.batches.packing import max_per_row, pack
from pipelines.data.store.token_store import Store
from support.commands import inspected, invoke, write_config

LENGTH = 192


@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_has_one_row_with_room(seed: int) -> None:
    rng = np.random.default_rng(seed)
    room, most = int(rng.integers(8, 200)), int(rng.integers(1, 9))
    lengths = rng.integers(1, room + 1, int(rng.integers(1, 3000)))
    packing = pack(lengths, room, most)
    assert sorted(packing.order.tolist()) == list(range(len(lengths)))
    assert packing.starts[0] == 0
    assert packing.starts[-1] == len(lengths)
    counts = np.diff(packing.starts)
    assert counts.min() >= 1
    assert counts.max() <= most
    assert np.add.reduceat(lengths[packing.order], packing.starts[:-1]).max() <= room


def test_rows_are_nearly_full() -> None:
    """Lengths as on Wikipedia: many full sequences, the others of any length."""
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(50_000) < 0.4, 512, rng.integers(5, 512, 50_000))
    packing = pack(lengths, 512, max_per_row(512))
    assert lengths.sum() / (len(packing) * 512) > 0.97


@pytest.fixture
def packed(still: RunConfig) -> RunConfig:
    data = replace(still.data, packing=True)
    model = replace(still.model, max_positions=LENGTH)
    phases = (Phase(length=LENGTH, steps=20, batch_size=8),)
    return replace(still, data=data, model=model, phases=phases)


def test_a_packed_batch_has_the_documented_layout(store: Store, packed: RunConfig) -> None:
    data = PretrainingData(store, packed)
    batch = data.batch_at(0)
    arrays = batch.arrays
    (expected,) = data.shapes(LENGTH, 8)
    assert set(expected) == {*FIELDS, *PACKED_FIELDS}
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == expected
    ids, sequence = arrays["token_ids"], arrays["segment_ids"]
    assert (sequence > 0).sum() == batch.tokens
    assert (ids[sequence == 0] == store.tokenizer.pad_id).all()
    several = 0
    for row in range(8):
        number = int(sequence[row].max())
        several += number > 1
        for segment in range(1, number + 1):
            (positions,) = np.nonzero(sequence[row] == segment)
            assert (np.diff(positions) == 1).all()
            assert arrays["cls_positions"][row, segment - 1] == positions[0]
            assert ids[row, positions[0]] == store.tokenizer.cls_id
            assert ids[row, positions[-1]] == store.tokenizer.sep_id
            assert arrays["position_ids"][row, positions].tolist() == list(range(len(positions)))
        assert arrays["nsp_weights"][row].sum() == number
    assert several > 2
    used = arrays["mlm_weights"] > 0
    where = np.take_along_axis(sequence, arrays["mlm_positions"], axis=1)
    assert (where[used] > 0).all()


def test_the_losses_of_every_pair_are_those_of_a_row_of_its_own(
    store: Store, packed: RunConfig
) -> None:
    """Also the gradients, summed over the same examples."""
    apart = replace(packed, data=replace(packed.data, packing=False))
    together, alone = (
        Examples(store.split("train"), store.tokenizer, config.data, 0, LENGTH)
        for config in (packed, apart)
    )
    placed = together.at(np.arange(8))
    count = len(placed.row)
    order = np.argsort(alone.at(np.arange(len(alone))).key)
    keys = alone.at(np.arange(len(alone))).key[order]
    numbers = order[np.searchsorted(keys, placed.key)]
    batches = [
        together.batch(np.arange(8), slice(None)).arrays,
        alone.batch(numbers, slice(None)).arrays,
    ]
    model, params = define(packed.model), init_params(packed.model, 3)
    results = []
    for arrays in batches:
        batch = jax.tree.map(jnp.array, arrays)

        def loss(params: object, batch: dict[str, jax.Array] = batch) -> jax.Array:
            logits = forward(model, params, batch, None)  # type: ignore[arg-type]
            mlm = cross_entropy(logits.mlm, batch["mlm_targets"], batch["mlm_weights"])
            nsp = cross_entropy(logits.nsp, batch["nsp_labels"], batch["nsp_weights"])
            return mlm.loss / mlm.count + nsp.loss / nsp.count

        logits = jax.jit(lambda p, batch=batch: forward(model, p, batch, None))(params)
        log = jax.nn.log_softmax(logits.mlm)
        mlm = -np.array(jnp.take_along_axis(log, batch["mlm_targets"][..., None], -1))[..., 0]
        log = jax.nn.log_softmax(logits.nsp)
        nsp = -np.array(jnp.take_along_axis(log, batch["nsp_labels"][..., None], -1))[..., 0]
        used = arrays["mlm_weights"] > 0
        results.append((mlm[used], nsp[arrays["nsp_weights"] > 0], jax.jit(jax.grad(loss))(params)))
    (mlm, nsp, grads), (mlm_alone, nsp_alone, grads_alone) = results
    assert len(nsp) == count > 8
    assert np.allclose(mlm, mlm_alone, atol=1e-5)
    assert np.allclose(nsp, nsp_alone, atol=1e-5)
    for packed_grad, alone_grad in zip(
        jax.tree.leaves(grads), jax.tree.leaves(grads_alone), strict=True
    ):
        assert np.allclose(packed_grad, alone_grad, atol=1e-5)


def test_an_epoch_of_packed_rows_uses_every_pair(store: Store, packed: RunConfig) -> None:
    examples = Examples(store.split("train"), store.tokenizer, packed.data, 0, LENGTH)
    alone = replace(examples, data=replace(packed.data, packing=False))
    assert len(examples) < len(alone)
    keys, expected = (source.at(np.arange(len(source))).key for source in (examples, alone))
    assert sorted(keys.tolist()) == sorted(expected.tolist())


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_one_packed_batch(store: Store, packed: RunConfig, processes: int) -> None:
    data, size = PretrainingData(store, packed), 8 // processes
    whole = data.batch_at(3)
    parts = [data.batch_at(3, slice(p * size, (p + 1) * size)) for p in range(processes)]
    for name, array in whole.arrays.items():
        assert np.array_equal(np.concatenate([part.arrays[name] for part in parts]), array)
    assert {part.tokens for part in parts} == {whole.tokens}


@pytest.mark.parametrize(
    "data",
    [
        {"packing": True},
        {"objective": "mlm", "packing": True},
        {"objective": "sop", "whole_words": True, "shuffle_tokens": 2000},
    ],
)
def test_a_run_with_other_data_resumes(
    config: RunConfig, tmp_path: Path, data: dict[str, object]
) -> None:
    config = replace(config, data=replace(config.data, **data))  # type: ignore[arg-type]
    file, run = write_config(config, tmp_path), tmp_path / "run"
    digests = []
    for begun in ("new run", "resuming at step 5"):
        made = invoke("pretrain", "--config", file, "--train.steps", "8", devices=2)
        assert made.returncode == 0, made.stderr
        assert begun in made.stderr
        digests.append(inspected(run)["digest"])
        shutil.rmtree(run / "checkpoints" / "8")
    assert digests[0] == digests[1]
    evaluated = invoke("evaluate", run, "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    labeled = data.get("objective") != "mlm"
    assert (json.loads(evaluated.stdout)["nsp_loss"] is not None) == labeled


def test_more_than_one_window_is_read_one_after_the_other(store: Store) -> None:
    split = store.split("train")
    data = DataConfig(shuffle_tokens=split.tokens // 5)
    windows = split.windows(data.shuffle_tokens)
    assert len(windows) == 5
    assert windows[0][0] == 0
    assert windows[-1][1] == split.documents
    examples = Examples(split, store.tokenizer, data, 0, 32)
    pairs = examples.at(np.arange(2 * len(examples))).pairs
    ends = split.sentence_offsets[split.document_offsets[[end for _, end in windows]]]
    a, b = (np.searchsorted(ends, x, side="right") for x in (pairs.a_start, pairs.b_start))
    # Segments of one window only, one window after the other, in another order in each pass.
    assert (a == b).all()
    visits = a[np.flatnonzero(np.diff(a, prepend=-1))].tolist()
    first, second = visits[:5], visits[-5:]
    assert sorted(first) == sorted(second) == list(range(5))
    assert len(visits) in (9, 10)
    assert split.windows(10**9) == [(0, split.documents)]
    for tokens in (1, 7, 100):
        assert all(end - first >= 2 for first, end in split.windows(tokens))


@pytest.mark.parametrize("probability", [0.02, 0.05, 0.15, 0.4])
def test_a_packed_row_has_room_for_all_its_predictions(store: Store, probability: float) -> None:
    data = DataConfig(mlm_probability=probability, packing=True, objective="mlm")
    shape = Examples(store.split("train"), store.tokenizer, data, 0, 512).shape(1)
    longest, short = 512 - 3 * (shape.sequences - 1), 3
    for lengths in (
        [longest, *[short] * (shape.sequences - 1)],
        [512 // shape.sequences] * shape.sequences,
        [5] * shape.sequences,
        [512],
    ):
        needed = sum(max(1, round(length * probability)) for length in lengths)
        assert needed <= shape.predictions
