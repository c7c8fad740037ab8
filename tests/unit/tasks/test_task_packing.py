"""Several rows of a task in one row of the network: same examples, loss, gradient and logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.config.model import ModelConfig
from bert_jax.config.task_head import HeadConfig
from bert_jax.nn.attention_mask import MASKED_SCORE
from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import new_state
from bert_jax.training.step import Steps, task_objective
from pipelines.data.tokenizers.tokenizer import load
from pipelines.tasks.batches import TaskBatches
from pipelines.tasks.experiment import all_logits, logits_step
from pipelines.tasks.packing import best_fit, training_layout
from pipelines.tasks.registry import TASKS, open_task
from pipelines.tasks.task import Columns, Features, Task
from support.finetuned import FILES, MODEL, options, run

BATCH = 16
Made = tuple[Task, Features, TaskNetwork]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Return rows of a task that are three times as long as its longest text, and a network."""
    folder, tokenizer = tmp_path_factory.mktemp("tasks"), load(MODEL)

    def make(name: str) -> Made:
        task, files = open_task(name), FILES[name]
        source = files.write(folder / f"{name}.{files.suffix}", 24, 0)
        examples = task.read(str(source), Columns(), labeled=True)
        classes = task.classes(examples)
        features = task.features(examples, tokenizer, 32, classes)
        T = features.arrays["token_ids"].shape[-1]
        config = ModelConfig(
            vocab_size=tokenizer.vocab_size, layers=2, hidden_size=16, heads=2,
            feed_forward_size=32, max_positions=256, hidden_dropout=0.0, attention_dropout=0.0,
            initializer_range=0.3, dtype="float32",
        )  # fmt: skip
        network = TaskNetwork(config, HeadConfig(dropout=0.0), len(classes), task.head == "tokens")
        return task, _longer(features, 2 * T), network

    return make


def _longer(features: Features, more: int) -> Features:
    T = features.arrays["token_ids"].shape[-1]
    arrays = {
        name: np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, more)]) if a.shape[-1] == T else a
        for name, a in features.arrays.items()
    }
    return replace(features, arrays=arrays)


def _update(
    objective: Any, network: TaskNetwork, batch: Any, count: int, parts: int
) -> tuple[Any, Any]:
    """Return the gradients of a step on so many devices, and its metrics."""
    partitioner = Partitioner(devices()[:count])
    rule = optax.sgd(1.0)
    step = partitioner.train_step(
        Steps(task_objective(network, objective), rule, lambda step: step, 0, None, parts)
    )
    before = network.init_params(0)
    state = partitioner.build(lambda: new_state(rule, network.init_params(0)))
    after, metrics = step(state, partitioner.shard_batch(batch.arrays))
    gradients = jax.tree.map(lambda old, new: old - np.asarray(new), before, after.params)
    return gradients, jax.device_get(metrics)


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (2, 2), (8, 1)])
@pytest.mark.parametrize("name", TASKS)
def test_loss_and_gradients_are_those_of_the_rows_apart(
    name: str, count: int, parts: int, made: Callable[[str], Made]
) -> None:
    task, features, network = made(name)

    def objective(logits: Any, batch: Any) -> Any:
        # Packed rows have no padding that could be an answer.
        if task.head == "tokens":
            logits = jnp.where(batch["segment_ids"][..., None] > 0, logits, MASKED_SCORE)
        return task.objective(logits, batch)

    data = TaskBatches(features, BATCH, 0, {})
    step = 1  # the last of an epoch, with rows that only fill up the batch
    apart, digests = data.batch_at(step), data.digests
    data.pack(2, count, parts)
    packed = data.batch_at(step)
    assert data.digests == digests
    assert (packed.tokens, packed.sequences) == (apart.tokens, apart.sequences)
    (shapes,) = data.shapes(0, BATCH)
    assert {n: (a.shape, a.dtype) for n, a in packed.arrays.items()} == dict(shapes)
    assert packed.arrays["token_ids"].size < apart.arrays["token_ids"].size
    expected, expected_metrics = _update(objective, network, apart, count, parts)
    gradients, metrics = _update(task.objective, network, packed, count, parts)
    for key in ("loss", *(["task_accuracy"] if "task_accuracy" in metrics else [])):
        np.testing.assert_allclose(metrics[key], expected_metrics[key], rtol=1e-5)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("name", TASKS)
def test_logits_are_those_of_the_rows_apart(
    name: str, count: int, made: Callable[[str], Made]
) -> None:
    _, features, network = made(name)
    partitioner = Partitioner(devices()[:count])
    run, params = logits_step(network, partitioner), network.init_params(0)
    expected = all_logits(run, params, features, 8, partitioner, packing=False)
    packed = all_logits(run, params, features, 8, partitioner)
    assert packed.shape == expected.shape
    exists = features.arrays["segment_ids"].any(axis=-1)
    if network.tokens:
        exists = features.arrays["segment_ids"] > 0
    np.testing.assert_allclose(packed[exists], expected[exists], atol=1e-5)


def test_a_bilstm_reads_each_sentence_apart(made: Callable[[str], Made]) -> None:
    _, features, network = made("tagging")
    head = replace(network.head, kind="bilstm", features="weighted-all")
    network = replace(network, head=head)
    partitioner = Partitioner(devices()[:1])
    run, params = logits_step(network, partitioner), network.init_params(0)
    expected = all_logits(run, params, features, 8, partitioner, packing=False)
    packed = all_logits(run, params, features, 8, partitioner)
    inside = features.arrays["segment_ids"] > 0
    np.testing.assert_allclose(packed[inside], expected[inside], atol=1e-5)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 8))
def test_every_sequence_is_in_one_row_that_has_room(lengths: list[int], most: int) -> None:
    rows = best_fit(lengths, 40, most)
    members = [n for row in rows for n in row]
    assert sorted(members) == [n for n, length in enumerate(lengths) if length]
    assert all(0 < len(row) <= most and sum(lengths[n] for n in row) <= 40 for row in rows)


def test_a_long_run_has_batches_of_two_sizes() -> None:
    lengths = np.random.default_rng(0).integers(2, 17, 500)
    ids = (np.arange(24) < lengths[:, None]).astype(np.int32)
    arrays = {"token_ids": ids, "token_type_ids": 0 * ids, "segment_ids": ids}
    batches = np.random.default_rng(1).integers(0, 500, (300, 16))
    layout = training_layout(arrays, batches, 16, 1, 1)
    short = training_layout(arrays, batches[:100], 16, 1, 1)
    assert layout is not None
    assert short is not None
    few, many = layout.sizes
    assert len(short.sizes) == 1
    used = set()
    for chosen in batches:
        needed = len(best_fit(lengths[chosen].tolist(), 24, 16))
        packed = layout.batch({name: array[chosen] for name, array in arrays.items()}, slice(None))
        assert len(packed["token_ids"]) == (few if needed <= few else many)
        used.add(len(packed["token_ids"]))
    assert used == {few, many}
    shapes = [of["token_ids"][0] for of in layout.shapes(arrays)]
    assert shapes == [(few, 24), (many, 24)]


@pytest.mark.full
def test_a_long_run_trains_with_both_sizes(tmp_path: Path) -> None:
    last = []
    for packing in ("true", "false"):
        folder = tmp_path / packing
        folder.mkdir()
        more = {"train__epochs": 13, "train__batch_size": 4, "data__packing": packing}
        run(options("classification", folder, folder / "run", data__length=24, **more))
        lines = (folder / "run/metrics.jsonl").read_text("utf-8").splitlines()
        losses = [json.loads(line)["loss"] for line in lines if "learning_rate" in line]
        last.append(losses[:3])
    np.testing.assert_allclose(last[0], last[1], rtol=1e-3)


@pytest.mark.parametrize("name", ["classification", "multiple-choice"])
def test_processes_have_their_parts_of_a_batch(name: str, made: Callable[[str], Made]) -> None:
    _, features, _ = made(name)
    data = TaskBatches(features, BATCH, 0, {})
    data.pack(2, 8, 1)
    whole, halves = (
        data.batch_at(0),
        [data.batch_at(0, slice(0, 8)), data.batch_at(0, slice(8, 16))],
    )
    for key, array in whole.arrays.items():
        np.testing.assert_array_equal(array, np.concatenate([h.arrays[key] for h in halves]))
    assert all((half.tokens, half.sequences) == (whole.tokens, whole.sequences) for half in halves)
