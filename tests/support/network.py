"""All stages of the network for a batch, for comparison with another implementation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import OptimizerConfig, Phase
from bert_jax.nn.attention_mask import AttentionMask
from bert_jax.nn.encoder import BertForPreTraining, Params, define
from bert_jax.nn.tensor_names import from_tensors, named_leaves
from bert_jax.training.optimizers import optimizer, schedule
from bert_jax.training.state import new_state
from bert_jax.training.step import Steps, forward, means, pretraining, pretraining_sums

Arrays = Mapping[str, np.ndarray]

V, LONGEST = 70, 40
RULE = OptimizerConfig(learning_rate=5e-3, warmup_steps=10)


def synthetic(seed: int, packed: bool) -> dict[str, np.ndarray]:
    """Return a padded batch that can be learned: tokens of a pair increase by a random step.

    B follows A if it continues where A ends.
    """
    rng = np.random.default_rng(seed)
    B, T, K = 4, 32, 2 if packed else 1
    whole = {"BT": (B, T), "BP": (B, 4 * K), "BK": (B, K)}
    names = {
        "token_ids": "BT",
        "token_type_ids": "BT",
        "segment_ids": "BT",
        "position_ids": "BT",
        "mlm_positions": "BP",
        "mlm_targets": "BP",
        "mlm_weights": "BP",
        "nsp_labels": "BK",
        "nsp_weights": "BK",
        "cls_positions": "BK",
    }
    out = {name: np.zeros(whole[dims], np.int32) for name, dims in names.items()}
    for row in range(B):
        offset = 0
        for k in range(K):
            a, b = rng.integers(4, T // (2 * K) - 1, 2)
            end, slot = offset + a + b + 3, slice(4 * k, 4 * k + 4)
            start, step, random = rng.integers(65), rng.integers(1, 4), rng.integers(2)
            follows = rng.integers(65) if random else start + step * a
            first, second = start + step * np.arange(a), follows + step * np.arange(b)
            pair = np.concatenate([[2], first % 65 + 5, [3], second % 65 + 5, [3]])
            out["token_ids"][row, offset:end] = pair
            out["token_type_ids"][row, offset + a + 2 : end] = 1
            out["segment_ids"][row, offset:end] = k + 1
            out["position_ids"][row, offset:end] = np.arange(end - offset)
            out["cls_positions"][row, k] = offset
            out["nsp_labels"][row, k], out["nsp_weights"][row, k] = random, 1
            hidden = np.sort(rng.choice(np.arange(1, a + 1), 3, replace=False)) + offset
            out["mlm_positions"][row, slot][:3] = hidden
            out["mlm_targets"][row, slot][:3] = out["token_ids"][row, hidden]
            out["mlm_weights"][row, slot][:3] = 1
            out["token_ids"][row, hidden] = 4
            offset = end
    for name in ("mlm_weights", "nsp_weights"):
        out[name] = out[name].astype(np.float32)
    if not packed:
        del out["position_ids"], out["cls_positions"]
    return out


def ours(params: Params, config: ModelConfig, arrays: Arrays) -> dict[str, Any]:
    """Return the outputs of all modules and the gradient of the loss for each parameter."""
    batch = {name: jnp.array(array) for name, array in arrays.items()}
    definition = define(config)

    def loss(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = forward(definition, params, batch, None)
        losses = means(pretraining_sums(logits, batch))
        return losses["loss"], {
            "mlm": logits.mlm,
            "nsp": logits.nsp,
            "mlm_loss": losses["mlm_loss"],
            "nsp_loss": losses["nsp_loss"],
        }

    def modules(params: Params) -> dict[str, jax.Array]:
        model: BertForPreTraining = nnx.merge(definition, params)
        positions = batch.get("position_ids")
        ids = [batch[name] for name in ("token_ids", "token_type_ids", "segment_ids")]
        last, inputs = model.bert.hidden_states(*ids, None, positions)
        layer, stacked = nnx.split(model.bert.layers)
        first = nnx.merge(layer, jax.tree.map(lambda array: array[0], stacked))
        mask = AttentionMask(batch["segment_ids"], packed=positions is not None)
        attention = first.attention(inputs[0], mask, None)
        return {
            "embeddings": inputs[0],
            "attention": attention,
            "layer": inputs[1],
            "encoder": last,
        }

    (_, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return outputs | jax.jit(modules)(params) | {"gradients": grads}


def assert_equal(
    actual: dict[str, Any], golden: Arrays, config: ModelConfig, batch: Arrays
) -> None:
    """Assert that stages agree to 1e-5, and gradients to 1e-4 of the largest of the parameter."""
    real = batch["segment_ids"] > 0  # outputs at padding are never used
    for name in ("embeddings", "attention", "layer", "encoder"):
        assert np.abs(np.array(actual[name]) - golden[name])[real].max() <= 1e-5, name
    for name in ("mlm", "nsp", "mlm_loss", "nsp_loss"):
        used = batch[f"{name}_weights"] > 0 if f"{name}_weights" in batch else ...
        assert np.abs(np.array(actual[name]) - golden[name])[used].max() <= 1e-5, name
    named = {k.removeprefix("gradient/"): v for k, v in golden.items() if "gradient/" in k}
    tree = from_tensors(named, "hugging_face", "BertForPreTraining", config, "gradients")
    expected = dict(named_leaves(tree))
    largest = max(np.abs(grad).max() for grad in expected.values())
    assert expected.keys() == dict(named_leaves(actual["gradients"])).keys()
    for name, grad in named_leaves(actual["gradients"]):
        # The biases of keys have no effect: their gradient is 0 apart from rounding.
        scale = 1e-3 * largest if name.endswith("key/bias") else np.abs(expected[name]).max()
        assert np.abs(np.array(grad) - expected[name]).max() <= 1e-4 * scale, name


def training_curve(params: Params, config: ModelConfig, batches: list[Arrays]) -> np.ndarray:
    """Return both losses before each update, [steps, 2]."""
    phases = (Phase(steps=len(batches)),)
    steps = Steps(
        pretraining(config),
        optimizer(RULE, phases),
        schedule(RULE, phases),
        seed=0,
    )
    state, train = new_state(steps.optimizer, params), jax.jit(steps.train)
    curve = []
    for batch in batches:
        state, metrics = train(state, {name: jnp.array(array) for name, array in batch.items()})
        curve.append([float(metrics["mlm_loss"]), float(metrics["nsp_loss"])])
    return np.array(curve)
