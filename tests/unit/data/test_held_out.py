"""Held-out evaluation is the same for every run, in training and in ``evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.config.run import DataConfig, RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training import metrics
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.examples import Examples
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.batches.pairs import plan
from pipelines.data.store.token_store import Store
from pipelines.models.evaluate import evaluate
from pipelines.models.open import open_model
from pipelines.pretraining import pretrain

MLM = ("token_ids", "segment_ids", "mlm_positions", "mlm_targets", "mlm_weights")
OTHERS: list[dict[str, Any]] = [
    {"mlm_probability": 0.3},
    {"whole_words": True},
    {"packing": True},
    {"objective": "sop"},
    {"objective": "mlm"},
    {"max_predictions": 2, "short_seq_prob": 0.9, "shuffle_tokens": 500},
]


def with_data(config: RunConfig, **data: Any) -> RunConfig:
    return replace(config, data=replace(config.data, **data))


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_every_run_is_evaluated_on_the_same_masks(
    store: Store, config: RunConfig, other: dict[str, Any]
) -> None:
    run = replace(with_data(config, **other), seed=7)
    size = 8
    batches = [
        [batch.arrays for batch in PretrainingData(store, of).held_out(32, size)]
        for of in (config, run)
    ]
    expected, arrays = batches
    examples = Examples(store.split("heldout"), store.tokenizer, DataConfig(), 0, 32)
    assert len(expected) == -(-len(examples) // size)
    for mine, theirs in zip(arrays, expected, strict=False):
        for name in MLM:
            assert np.array_equal(mine[name], theirs[name])
    assert sum(batch["mlm_weights"].sum() for batch in arrays[len(expected) :]) == 0
    assert PretrainingData(store, run).held_out_batches(32, size) == len(arrays)


def test_labels_are_those_of_the_objective_of_the_run(store: Store, config: RunConfig) -> None:
    split = store.split("heldout")
    for objective in ("nsp", "sop", "mlm"):
        data = PretrainingData(store, with_data(config, objective=objective))
        labels = {0: 0, 1: 0}
        for arrays in (batch.arrays for batch in data.held_out(32, 8)):
            for label in labels:
                used = arrays["nsp_weights"] > 0
                labels[label] += int((arrays["nsp_labels"][used] == label).sum())
            assert arrays["token_type_ids"].any() == (objective != "mlm")
        if objective == "mlm":
            assert labels == {0: 0, 1: 0}
            continue
        pairs = plan(split, 0, 0, 32, DataConfig().short_seq_prob, objective)
        swapped = pairs.not_next[pairs.b_length > 0]
        assert labels == {0: int((~swapped).sum()), 1: int(swapped.sum())}
    limited = PretrainingData(store, with_data(config, objective="sop")).held_out(32, 3, limit=2)
    counted = [(b.arrays["mlm_weights"].any(), b.arrays["nsp_weights"].any()) for b in limited]
    assert counted == [(True, False)] * 2 + [(False, True)] * 2


@pytest.mark.parametrize("other", [{}, *OTHERS[:5], {"objective": "mlm", "types": 1}], ids=str)
def test_training_and_evaluate_agree(
    store: Store, config: RunConfig, other: dict[str, Any]
) -> None:
    data = {name: value for name, value in other.items() if name != "types"}
    run = replace(
        with_data(config, **data),
        model=replace(config.model, type_vocab_size=other.get("types", 2)),
        train=replace(config.train, steps=3, eval_every=3, eval_batches=0),
    )
    partitioner, folder = Partitioner(devices()[:1]), Path(run.run_dir)
    pretrain(run, partitioner)
    results = evaluate(open_model(folder, partitioner), store)
    line = {
        name.removeprefix("eval_"): value
        for name, value in metrics.read(folder)[-1].items()
        if name.startswith("eval_")
    }
    assert line["length"] == 32
    absent = {"nsp_loss", "nsp_accuracy"} if other.get("objective") == "mlm" else set()
    assert {name for name, value in line.items() if value is None} == absent
    assert line["loss"] == pytest.approx(line["mlm_loss"] + (line["nsp_loss"] or 0.0))
    for name, value in line.items():
        assert results[name] == (value if value is None else pytest.approx(value, rel=1e-6))
    shorter = evaluate(open_model(folder, partitioner), store, length=16)
    assert shorter["length"] == 16
    assert shorter["predictions"] != results["predictions"]
