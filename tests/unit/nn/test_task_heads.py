"""Task heads: shapes, frozen parameters, learning rates per layer, features of layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bert_jax.config.run import OptimizerConfig, Phase
from bert_jax.config.task_head import HeadConfig
from bert_jax.nn.encoder import Params
from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.nn.tensor_names import named_leaves
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import cross_entropy
from bert_jax.training.optimizers import optimizer
from bert_jax.training.state import new_state
from bert_jax.training.step import Steps, task_objective
from pipelines.models.formats import hugging_face
from support.commands import ROOT

CONFIG = hugging_face.read(ROOT / "tests/golden/hugging_face").config
B, T, C = 3, 12, 4


def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        "token_ids": jnp.array(rng.integers(5, 70, (B, T))),
        "token_type_ids": jnp.zeros((B, T), jnp.int32),
        "segment_ids": jnp.array(np.arange(T) < np.array([[T], [T - 4], [5]])).astype(jnp.int32),
        "labels": jnp.array([0, 3, 1]),
        "weights": jnp.ones(B),
    }


def logits(network: TaskNetwork, params: Params, arrays: dict[str, jax.Array]) -> jax.Array:
    definition = network.define()
    return jax.jit(lambda params: nnx.merge(definition, params)(arrays, None))(params)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(
    "features",
    ["last", "second-to-last", "embeddings", "sum-last-4", "concat-last-4", "weighted-all"],
)
def test_every_kind_of_features_reaches_the_head(features: str, tokens: bool) -> None:
    if "4" in features:  # the network of the golden has three states
        with pytest.raises(BadInputError, match="needs more than 2 layers"):
            TaskNetwork(CONFIG, HeadConfig(features=features), C, tokens)
        return
    network = TaskNetwork(CONFIG, HeadConfig(features=features), C, tokens)
    scores = logits(network, network.init_params(0), batch())
    assert scores.shape == ((B, T, C) if tokens else (B, 1, C))
    assert scores.dtype == jnp.float32
    assert np.isfinite(scores).all()


def test_choices_and_several_sequences_in_a_row() -> None:
    network = TaskNetwork(CONFIG, HeadConfig(), 1, tokens=False)
    params, arrays = network.init_params(0), batch()
    single = logits(network, params, arrays)
    names = ("token_ids", "token_type_ids", "segment_ids")
    twice = {name: jnp.stack([arrays[name], arrays[name][::-1]], axis=1) for name in names}
    both = logits(network, params, twice)
    assert both.shape == (B, 2, 1)
    assert np.allclose(both[:, 0], single[:, 0], atol=1e-6)
    assert np.allclose(both[:, 1], single[::-1, 0], atol=1e-6)
    packed = arrays | {"cls_positions": jnp.array([[0, 3], [0, 2], [0, 1]])}
    several = logits(network, params, packed)
    assert several.shape == (B, 2, 1)
    assert np.allclose(several[:, 0], single[:, 0], atol=1e-6)


def test_the_lstm_head_depends_on_neighbors_but_not_on_padding() -> None:
    network = TaskNetwork(CONFIG, HeadConfig(kind="bilstm", features="embeddings"), C, tokens=True)
    params, arrays = network.init_params(0), batch()
    before = logits(network, params, arrays)
    changed = arrays | {"token_ids": arrays["token_ids"].at[:, 2].add(1)}
    after = logits(network, params, changed)
    assert not np.allclose(before[:, 3], after[:, 3], atol=1e-5)
    padded = arrays | {"token_ids": arrays["token_ids"].at[2, 7:].set(6)}
    assert np.allclose(before[2, :5], logits(network, params, padded)[2, :5], atol=1e-6)
    with pytest.raises(BadInputError, match="for tasks on tokens"):
        TaskNetwork(CONFIG, HeadConfig(kind="bilstm"), C, tokens=False)


def updated(head: HeadConfig) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the parameters before and after an update with clipping and decay."""
    network = TaskNetwork(CONFIG, head, C, tokens=False)
    params = network.init_params(0)
    lr_scales = network.lr_scales(params)
    config = OptimizerConfig(learning_rate=0.01, warmup_steps=0)
    rule = optimizer(config, (Phase(steps=1),), lr_scales)
    objective = task_objective(
        network, lambda scores, b: cross_entropy(scores[:, 0], b["labels"], b["weights"])
    )
    steps = Steps(objective, rule, lambda _: jnp.float32(0.01), seed=0, lr_scales=lr_scales)
    before = {name: np.array(leaf) for name, leaf in named_leaves(params)}
    state, metrics = jax.jit(steps.train)(new_state(rule, params), batch())
    assert set(metrics) == {"loss", "task_loss", "task_accuracy", "grad_norm", "learning_rate"}
    return before, {name: np.array(leaf) for name, leaf in named_leaves(state.params)}


def test_frozen_parameters_keep_every_bit() -> None:
    for trainable in ("all", "last-1", "head"):
        before, after = updated(HeadConfig(trainable=trainable))
        for name, old in before.items():
            moved = old != after[name]
            if name.startswith("bert/embeddings"):
                assert moved.any() == (trainable == "all"), name
            elif name.startswith("bert/layers") and not name.endswith("key/bias"):
                assert moved[0].any() == (trainable == "all"), name
                assert moved[1].any() == (trainable != "head"), name
            elif not name.endswith("key/bias"):
                assert moved.any(), name


@pytest.mark.parametrize("features", ["last", "embeddings", "weighted-all", "second-to-last"])
def test_a_head_on_a_frozen_encoder_learns_all_of_itself(features: str) -> None:
    before, after = updated(HeadConfig(features=features, trainable="head"))
    for name, old in before.items():
        learns = name.startswith("head/") or (features == "last" and "pooler" in name)
        assert (old != after[name]).any() == learns, name


def test_parameters_that_no_output_depends_on_do_not_decay() -> None:
    before, after = updated(HeadConfig(features="second-to-last"))
    kernel = "bert/layers/feed_forward/output/kernel"
    assert (before[kernel][0] != after[kernel][0]).any()
    assert (before[kernel][1] == after[kernel][1]).all()
    assert (before["bert/pooler/kernel"] == after["bert/pooler/kernel"]).all()


def test_lower_layers_move_less() -> None:
    before, after = updated(HeadConfig(layer_decay=0.5))
    name = "bert/layers/feed_forward/output/kernel"
    # The first update of Adam moves every weight by the learning rate.
    moves = [np.median(np.abs(after[name][n] - before[name][n])) for n in (0, 1)]
    assert moves[1] / moves[0] == pytest.approx(2, rel=0.05)
    scale = "bert/embeddings/norm/scale"
    assert np.median(np.abs(after[scale] - before[scale])) == pytest.approx(0.01 / 8, rel=0.05)
    assert np.median(np.abs(after["head/bias"])) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    "wrong",
    [{"trainable": "last-0"}, {"trainable": "some"}, {"features": "first"}, {"layer_decay": 0.0}],
)
def test_impossible_heads_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match=f"head.{next(iter(wrong))}"):
        HeadConfig(**wrong)  # type: ignore[arg-type]
