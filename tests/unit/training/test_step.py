"""The step gives the same results on 1, 2, 4 and 8 devices, with jit and with pmap."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config.run import Phase, RunConfig
from bert_jax.nn.encoder import define
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.evaluate import evaluate
from bert_jax.training.losses import cross_entropy
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState, init_state
from bert_jax.training.step import Steps, forward
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from support.xla_flags import DEVICES


def trained(
    config: RunConfig, store: Store, partitioner: Partitioner, count: int
) -> tuple[list[dict[str, float]], list[TrainState]]:
    """Return metrics and states of the first `count` updates."""
    steps, data = Steps.of(config), PretrainingData(store, config)
    state = partitioner.build(partial(init_state, config.model, steps.optimizer, config.seed))
    step = partitioner.train_step(steps)
    metrics, states = [], []
    for number in range(count):
        batch = partitioner.shard_batch(data.batch_at(number).arrays)
        state, values = step(state, batch)
        metrics.append({name: float(value) for name, value in values.items()})
        states.append(jax.tree.map(np.array, state))
    return metrics, states


def difference(first: Any, second: Any) -> float:
    """Return the largest difference of two trees, relative to the largest value in them.

    Not per array: the gradient of the key bias is zero apart from rounding.
    """
    leaves = [jax.tree.leaves(jax.tree.map(np.float64, tree)) for tree in (first, second)]
    largest = max(np.abs(leaf).max() for leaf in leaves[0])
    return max(np.abs(a - b).max() for a, b in zip(*leaves, strict=True)) / largest


def first_moment(state: TrainState) -> Any:
    """Return the first moment of Adam: after one update, the clipped gradient times 1 - beta1."""
    return next(part.mu for part in state.opt_state if hasattr(part, "mu"))


def test_losses_and_gradient_norms_do_not_depend_on_the_devices(
    config: RunConfig, store: Store
) -> None:
    """With dropout, and with different numbers of predictions per row."""
    config = replace(config, phases=(Phase(length=64, steps=20),))
    data = PretrainingData(store, config)
    ragged = [len(set(data.batch_at(n).arrays["mlm_weights"].sum(axis=1))) > 1 for n in range(20)]
    assert all(ragged)
    single, _ = trained(config, store, Partitioner(devices()[:1]), 20)
    for count in (2, 4, 8):
        spread, _ = trained(config, store, Partitioner(devices()[:count]), 20)
        for expected, values in zip(single, spread, strict=True):
            for name in ("loss", "mlm_loss", "nsp_loss", "grad_norm"):
                assert values[name] == pytest.approx(expected[name], rel=1e-5), (count, name)


def test_pmap_and_jit_give_the_same_losses_gradients_and_parameters(
    still: RunConfig, store: Store
) -> None:
    by_jit, jit_states = trained(still, store, Partitioner(devices(), "jit"), 10)
    by_pmap, pmap_states = trained(still, store, Partitioner(devices(), "pmap"), 10)
    for expected, values in zip(by_jit, by_pmap, strict=True):
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, rel=1e-5), name
    assert difference(first_moment(jit_states[0]), first_moment(pmap_states[0])) < 1e-5
    assert difference(jit_states[9].params, pmap_states[9].params) < 1e-5


@pytest.mark.parametrize(
    "changed",
    [
        {"model": {"remat": "elementwise"}},
        {"model": {"remat": "layers"}},
        {"train": {"accumulate": 2}},
        {"parallel": {"shard_state": True}},
        {"train": {"accumulate": 2}, "parallel": {"shard_state": True}},
    ],
    ids=str,
)
def test_options_for_time_or_memory_change_no_result(
    still: RunConfig, store: Store, changed: dict[str, dict[str, Any]]
) -> None:
    other = still
    for section, values in changed.items():
        other = replace(other, **{section: replace(getattr(other, section), **values)})
    few = devices()[:4]
    expected, states = trained(still, store, Partitioner(few), 6)
    metrics, other_states = trained(other, store, Partitioner.of(other.parallel, few), 6)
    for expected_values, values in zip(expected, metrics, strict=True):
        for name, value in expected_values.items():
            assert values[name] == pytest.approx(value, rel=1e-5), name
    assert difference(first_moment(states[0]), first_moment(other_states[0])) < 1e-5
    assert difference(states[5].params, other_states[5].params) < 1e-5


def test_groups_of_devices_with_a_copy_each_give_the_same(
    still: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, states = trained(still, store, Partitioner(devices()[:1]), 3)
    monkeypatch.setattr("bert_jax.training.partitioner._MAX_SHARDS", 2)
    partitioner = Partitioner(devices(), shard_state=True)
    assert dict(partitioner.mesh.shape) == {"data": 4, "fsdp": 2}
    metrics, split_states = trained(still, store, partitioner, 3)
    for expected_values, values in zip(expected, metrics, strict=True):
        for name in ("loss", "grad_norm"):
            assert values[name] == pytest.approx(expected_values[name], rel=1e-5)
    assert difference(first_moment(states[0]), first_moment(split_states[0])) < 1e-5
    assert difference(states[2].params, split_states[2].params) < 1e-5


def test_accumulated_batches_drop_the_same_on_any_devices(config: RunConfig, store: Store) -> None:
    config = replace(config, train=replace(config.train, accumulate=2))
    single, _ = trained(config, store, Partitioner(devices()[:1]), 4)
    spread, _ = trained(config, store, Partitioner(devices()[:4]), 4)
    for expected, values in zip(single, spread, strict=True):
        for name in ("loss", "grad_norm"):
            assert values[name] == pytest.approx(expected[name], rel=1e-5), name


def test_recomputing_elementwise_operations_keeps_matmuls(still: RunConfig, store: Store) -> None:
    """Recompute elementwise operations, or whole layers including matmuls."""
    counts = {}
    batch = PretrainingData(store, still).batch_at(0).arrays
    for remat in ("elementwise", "layers"):
        config = replace(still, model=replace(still.model, remat=remat))
        steps = Steps.of(config)
        state = jax.eval_shape(partial(init_state, config.model, steps.optimizer, 0))
        text = jax.jit(steps.train).lower(state, batch).as_text()
        counts[remat] = text.count("dot_general")
    assert counts["elementwise"] < counts["layers"]


@pytest.mark.parametrize("encoder", ["transformer", "lstm"])
def test_kernels_that_are_sent_as_bfloat16_lose_nothing(
    still: RunConfig, store: Store, encoder: Literal["transformer", "lstm"]
) -> None:
    """A rounded value that is used in float32 would differ by more than a thousandth."""
    model = replace(still.model, dtype="bfloat16", encoder=encoder)
    config, few = replace(still, model=model), devices()[:4]
    expected, states = trained(config, store, Partitioner(few), 1)
    metrics, split_states = trained(config, store, Partitioner(few, shard_state=True), 1)
    assert metrics[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-6)
    assert difference(first_moment(states[0]), first_moment(split_states[0])) < 1e-5


def test_parameters_and_optimizer_state_are_split_where_sizes_allow(still: RunConfig) -> None:
    partitioner = Partitioner(devices(), shard_state=True)
    rule = Steps.of(still).optimizer
    state = partitioner.build(partial(init_state, still.model, rule, 0))
    for tree in (state.params, first_moment(state)):
        leaves = jax.tree.leaves(tree)
        mine = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
        assert mine < 0.2 * sum(leaf.size for leaf in leaves)
    with pytest.raises(BadInputError, match="mapping: jit"):
        Partitioner(devices(), "pmap", shard_state=True)


def test_the_gradient_is_that_of_the_loss_of_the_whole_batch(
    still: RunConfig, store: Store
) -> None:
    steps = Steps.of(still)
    state = init_state(still.model, steps.optimizer, still.seed)
    batch = jax.tree.map(jnp.array, PretrainingData(store, still).batch_at(0).arrays)

    def loss(params: Any) -> jax.Array:
        logits = forward(define(still.model), params, batch, None)
        log_mlm = jax.nn.log_softmax(logits.mlm)
        mlm = -jnp.take_along_axis(log_mlm, batch["mlm_targets"][..., None], -1)[..., 0]
        log_nsp = jax.nn.log_softmax(logits.nsp)
        nsp = -jnp.take_along_axis(log_nsp, batch["nsp_labels"][..., None], -1)
        weights = batch["mlm_weights"]
        return jnp.sum(mlm * weights) / jnp.sum(weights) + jnp.mean(nsp)

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    metrics, states = trained(still, store, Partitioner(devices()), 1)
    assert metrics[0]["loss"] == pytest.approx(float(value), rel=1e-5)
    clip = min(1.0, 1.0 / metrics[0]["grad_norm"])
    expected = jax.tree.map(lambda g: 0.1 * clip * np.array(g), grads)
    assert difference(expected, first_moment(states[0])) < 1e-5


def test_the_step_is_pure_and_counts(still: RunConfig, store: Store) -> None:
    steps = Steps.of(still)
    state = init_state(still.model, steps.optimizer, still.seed)
    batch = jax.tree.map(jnp.array, PretrainingData(store, still).batch_at(0).arrays)
    after, metrics = jax.jit(steps.train)(state, batch)
    assert (int(state.step), int(after.step)) == (0, 1)
    assert set(metrics) == {
        "loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "grad_norm",
        "learning_rate",
    }  # fmt: skip


def test_a_stock_optax_transformation_is_an_optimizer_with_its_learning_rate(
    still: RunConfig, store: Store
) -> None:
    """It counts its own updates and is mapped over devices like the built-in ones."""
    rate = optax.linear_schedule(0.1, 0.2, 1)
    steps = replace(Steps.of(still), optimizer=optax.sgd(rate), learning_rate=rate)
    batch = PretrainingData(store, still).batch_at(0).arrays
    partitioner = Partitioner(devices(), shard_state=True)
    state = partitioner.build(partial(init_state, still.model, steps.optimizer, still.seed))
    step = partitioner.train_step(steps)
    for expected in (0.1, 0.2):
        before = jax.tree.map(np.array, state.params)
        gradients, sums = jax.jit(steps.gradients)(before, state.step, batch)
        state, metrics = step(state, partitioner.shard_batch(batch))
        updated = jax.tree.map(
            lambda p, g, rate=expected: p - rate * np.array(g), before, gradients
        )
        assert difference(updated, jax.tree.map(np.array, state.params)) < 1e-6
        assert float(metrics["learning_rate"]) == pytest.approx(expected)
        assert float(sums["mlm"].count) == batch["mlm_weights"].sum()


def test_dropout_does_not_depend_on_the_mapping(config: RunConfig, store: Store) -> None:
    still = replace(config.model, hidden_dropout=0.0, attention_dropout=0.0)
    undropped, _ = trained(replace(config, model=still), store, Partitioner(devices(), "pmap"), 1)
    by_pmap, _ = trained(config, store, Partitioner(devices(), "pmap"), 1)
    by_jit, _ = trained(config, store, Partitioner(devices(), "jit"), 1)
    assert by_pmap[0]["loss"] == pytest.approx(by_jit[0]["loss"], rel=1e-6)
    assert by_pmap[0]["loss"] != pytest.approx(undropped[0]["loss"], rel=1e-6)


def test_every_step_drops_something_else(config: RunConfig, store: Store) -> None:
    """Use the same parameters and batch at other steps; without dropout the losses are equal."""
    batch = {
        name: jnp.array(array)
        for name, array in PretrainingData(store, config).batch_at(0).arrays.items()
    }
    still = replace(config.model, hidden_dropout=0.0, attention_dropout=0.0)
    for model, same in ((config.model, False), (still, True)):
        steps = Steps.of(replace(config, model=model))
        state = jax.jit(partial(init_state, model, steps.optimizer, config.seed))()
        train = jax.jit(steps.train)
        losses = [
            float(train(replace(state, step=jnp.int32(step)), batch)[1]["loss"])
            for step in (0, 1, 2)
        ]
        assert (len(set(losses)) == 1) == same, losses


def test_the_donated_state_is_gone(
    still: RunConfig, store: Store, all_devices: Partitioner
) -> None:
    steps = Steps.of(still)
    state = all_devices.build(partial(init_state, still.model, steps.optimizer, 0))
    batch = all_devices.shard_batch(PretrainingData(store, still).batch_at(0).arrays)
    all_devices.train_step(steps)(state, batch)
    with pytest.raises(RuntimeError, match="deleted"):
        np.array(state.params["bert"]["embeddings"]["token"])


@pytest.mark.parametrize("mapping", ["jit", "pmap"])
def test_an_evaluation_is_exact_for_any_batch_and_devices(
    still: RunConfig, store: Store, mapping: Any
) -> None:
    steps, data = Steps.of(still), PretrainingData(store, still)
    results = []
    for count, size in ((1, 1), (2, 6), (DEVICES, 16)):
        partitioner = Partitioner(devices()[:count], mapping)
        state = partitioner.build(partial(init_state, still.model, steps.optimizer, 0))
        batches = data.held_out(32, size)
        results.append(evaluate(partitioner.eval_step(steps), partitioner, state.params, batches))
    for result in results[1:]:
        assert result["predictions"] == results[0]["predictions"]
        assert result["sequences"] == results[0]["sequences"]
        for name in ("mlm_loss", "nsp_loss", "perplexity"):
            assert result[name] == pytest.approx(results[0][name], rel=1e-6)
        assert result["mlm_accuracy"] == results[0]["mlm_accuracy"]


def test_a_batch_that_cannot_be_split_is_refused(all_devices: Partitioner) -> None:
    with pytest.raises(BadInputError, match="12 sequences cannot be split over 8 devices"):
        all_devices.rows(12)
    with pytest.raises(BadInputError, match=r"8 devices x 2 parts .* multiple of 16"):
        all_devices.rows(24, 2)


def test_cross_entropy_sums_and_leaves_out() -> None:
    logits = jnp.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [5.0, 1.0, 1.0]])
    sums = cross_entropy(logits, jnp.array([0, 2, 1]), jnp.array([1.0, 1.0, 0.0]))
    expected = np.log(np.exp([2.0, 0.0, -1.0]).sum()) - 2.0 + np.log(3.0)
    assert float(sums.loss) == pytest.approx(expected, rel=1e-6)
    assert (float(sums.count), float(sums.correct)) == (2.0, 1.0)


def test_the_gradient_of_the_cross_entropy_is_softmax_minus_target() -> None:
    logits = jnp.array(np.random.default_rng(0).normal(size=(4, 7)), jnp.float32)
    targets = jnp.array([0, 6, 3, 3])
    grads = jax.grad(lambda x: cross_entropy(x, targets, jnp.ones(4)).loss)(logits)
    expected = jax.nn.softmax(logits) - jax.nn.one_hot(targets, 7)
    assert np.allclose(grads, expected, atol=1e-6)


def test_right_is_where_the_first_of_the_largest_logits_is_the_target() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 3, (500, 5)).astype(np.float32)  # many ties
    targets = rng.integers(0, 5, 500).astype(np.int32)
    ones = jnp.ones(500)
    right = (logits.argmax(axis=-1) == targets).sum()
    assert float(cross_entropy(jnp.array(logits), jnp.array(targets), ones).correct) == right
    logits[:, 2] = np.nan
    assert float(cross_entropy(jnp.array(logits), jnp.array(targets), ones).correct) == 0
