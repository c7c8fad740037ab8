"""The network: sizes, shapes, types, and invariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bert_jax.config.model import ModelConfig
from bert_jax.config.presets import PRESETS
from bert_jax.nn.attention_mask import AttentionMask
from bert_jax.nn.dropout import dropout
from bert_jax.nn.encoder import BertForPreTraining, PretrainingLogits, init_params
from bert_jax.nn.layers import Attention
from bert_jax.nn.lstm import LstmLayer, sequence_starts
from bert_jax.nn.rngs import init_rngs
from bert_jax.nn.tensor_names import abstract_params
from bert_jax.training.state import parameter_count

# Prime sizes, so that a message about a shape identifies the axis.
B, T, P, V, D, N, F, L = 2, 13, 3, 101, 35, 5, 23, 3


@pytest.fixture(scope="module")
def small() -> ModelConfig:
    return ModelConfig(
        preset="bert-tiny",
        vocab_size=V,
        hidden_size=D,
        heads=N,
        feed_forward_size=F,
        layers=L,
        max_positions=T,
        initializer_range=0.2,
        dtype="float32",
    ).resolved()


Forward = Callable[..., PretrainingLogits]
Encoder = Literal["transformer", "left-to-right", "lstm"]


def compiled(config: ModelConfig) -> Forward:
    """Return the network of `config` with the weights of seed 0, compiled."""
    definition, arrays = nnx.split(BertForPreTraining(config, nnx.Rngs(0)))
    return jax.jit(lambda *args: nnx.merge(definition, arrays)(*args))


@pytest.fixture(scope="module")
def model(small: ModelConfig) -> Forward:
    return compiled(small)


def inputs(seed: int = 0) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    token_ids = jnp.array(rng.integers(5, V, (B, T)))
    token_type_ids = jnp.array(np.arange(T) > 6).astype(jnp.int32)[None].repeat(B, 0)
    segment_ids = jnp.array(np.arange(T) < np.array([[T], [T - 4]])).astype(jnp.int32)
    return token_ids, token_type_ids, segment_ids, jnp.array([[1, 4, 7], [2, 3, 0]])


@pytest.mark.parametrize(
    ("preset", "whole", "encoder"),
    [("bert-base", 110_106_428, 109_482_240), ("bert-large", 336_226_108, 335_141_888)],
)
def test_published_parameter_counts(preset: str, whole: int, encoder: int) -> None:
    config = ModelConfig(preset=preset, vocab_size=30_522).resolved()
    params = jax.eval_shape(partial(init_params, config, 0))
    assert parameter_count(params) == whole
    assert parameter_count(params["bert"]) == encoder


@pytest.mark.parametrize(
    ("preset", "encoder"),
    [
        ("bert-tiny", 4_385_920),
        ("bert-mini", 11_170_560),
        ("bert-small", 28_763_648),
        ("bert-medium", 41_373_184),
        ("bert-base-cased", 108_310_272),
        ("bert-base-multilingual-cased", 177_853_440),
        ("bert-base-chinese", 102_267_648),
        ("bert-large-cased-whole-word-masking", 333_579_264),
    ],
)
def test_published_encoders_have_their_size(preset: str, encoder: int) -> None:
    config = ModelConfig(preset=preset, vocab_size=PRESETS[preset][0]).resolved()
    assert parameter_count(abstract_params(config)["bert"]) == encoder


def test_logits_have_the_documented_shapes(model: Forward) -> None:
    logits = model(*inputs())
    assert logits.mlm.shape == (B, P, V)
    assert logits.nsp.shape == (B, 1, 2)


@pytest.mark.parametrize("encoder", ["transformer", "lstm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes_are_those_of_the_policy(small: ModelConfig, dtype: str, encoder: Encoder) -> None:
    config = replace(small, dtype=dtype, encoder=encoder, hidden_size=2 * D)
    model = BertForPreTraining(config, nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    # Under strict promotion no operation widens or narrows a type by accident.
    with jax.numpy_dtype_promotion("strict"):
        logits = jax.eval_shape(model, *inputs(), jax.random.key(0))
        hidden = jax.eval_shape(model.bert, *inputs()[:3])
    assert (logits.mlm.dtype, logits.nsp.dtype) == (jnp.float32, jnp.float32)
    assert (hidden.dtype, hidden.shape) == (jnp.dtype(dtype), (B, T, 2 * D))


def close(first: PretrainingLogits, second: PretrainingLogits) -> bool:
    return all(np.allclose(a, b, atol=2e-5) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("encoder", ["transformer", "left-to-right", "lstm"])
def test_padding_does_not_matter(small: ModelConfig, encoder: Encoder) -> None:
    model = compiled(replace(small, encoder=encoder, hidden_size=2 * D))
    token_ids, token_type_ids, mask, positions = inputs()
    other = token_ids.at[1, T - 4 :].set(7)
    whole = model(token_ids, token_type_ids, mask, positions)
    assert close(whole, model(other, token_type_ids, mask, positions))
    cut = slice(0, T - 4)
    short = model(token_ids[1:, cut], token_type_ids[1:, cut], mask[1:, cut], positions[1:])
    assert np.allclose(short.mlm[0], whole.mlm[1], atol=2e-5)


@pytest.mark.parametrize("encoder", ["transformer", "left-to-right", "lstm"])
def test_every_token_attends_to_the_right_sides(small: ModelConfig, encoder: Encoder) -> None:
    model = compiled(replace(small, encoder=encoder, hidden_size=2 * D))
    token_ids, token_type_ids, mask, _ = inputs()
    predicted = jnp.full((B, 1), 6)
    before = model(token_ids, token_type_ids, mask, predicted).mlm
    for position in (5, 7):
        changed = token_ids.at[0, position].add(1)
        after = model(changed, token_type_ids, mask, predicted).mlm
        hidden = encoder == "left-to-right" and position == 7
        assert np.allclose(before[0], after[0], atol=1e-3) == hidden
        assert np.allclose(before[1], after[1], atol=1e-5)


def test_the_lstm_is_the_textbook_recurrence(small: ModelConfig) -> None:
    layer = LstmLayer(replace(small, hidden_size=2 * D), nnx.Rngs(3))
    x = np.random.default_rng(0).normal(size=(1, T, 2 * D)).astype(np.float32)
    ids = np.array([[1] * 5 + [2] * 6 + [0] * 2])
    kernel, bias = (np.array(part[...]) for part in (layer.input.kernel, layer.input.bias))
    assert (bias[:, 1] == 1).all()
    assert (bias[:, [0, 2, 3]] == 0).all()
    expected = np.zeros((T, 2, D))
    for direction, order in enumerate((range(T), reversed(range(T)))):
        before = None
        for t in order:
            if ids[0, t] != before:
                hidden, cell = np.zeros(D), np.zeros(D)
            recurrent = np.array(layer.recurrent[...])[direction]
            gates = np.einsum("D,DGH->GH", x[0, t], kernel[:, direction]) + bias[direction]
            gates = gates + np.einsum("H,HGE->GE", hidden, recurrent)
            enter, forget, leave = 1 / (1 + np.exp(-gates[[0, 1, 3]]))
            cell = forget * cell + enter * np.tanh(gates[2])
            hidden = leave * np.tanh(cell)
            expected[t, direction], before = hidden, ids[0, t]
    total = x[0] + expected.reshape(T, 2 * D)
    normed = (total - total.mean(1, keepdims=True)) / total.std(1, keepdims=True)
    starts = sequence_starts(jnp.array(ids))
    actual = jax.jit(layer, static_argnums=2)(jnp.array(x), starts, None)[0]
    assert np.allclose(actual, normed, atol=1e-5)


def test_position_segment_and_order_matter(model: Forward) -> None:
    token_ids, token_type_ids, mask, positions = inputs()
    base = model(token_ids, token_type_ids, mask, positions)
    assert not close(base, model(token_ids, 1 - token_type_ids, mask, positions))
    swapped = token_ids.at[:, 10].set(token_ids[:, 8]).at[:, 8].set(token_ids[:, 10])
    assert not close(base, model(swapped, token_type_ids, mask, positions))


def test_attention_is_the_textbook_formula(small: ModelConfig) -> None:
    attention = Attention(small, nnx.Rngs(3))
    x = np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)
    mask = np.arange(T) < 9
    parts = {
        name: np.array(getattr(attention, name).kernel[...]).reshape(D, N, D // N)
        for name in ("query", "key", "value")
    }
    heads = []
    for n in range(N):
        q, k, v = (x @ parts[name][:, n] for name in ("query", "key", "value"))
        scores = q @ k.T / np.sqrt(D // N)
        scores[:, ~mask] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
    expected = np.concatenate(heads, axis=1) @ np.array(attention.output.kernel[...]).reshape(D, D)
    actual = jax.jit(attention, static_argnums=2)(
        jnp.array(x)[None], AttentionMask(jnp.array(mask, jnp.int32)[None]), None
    )[0]
    assert np.allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("encoder", ["transformer", "left-to-right"])
def test_attention_probabilities_are_the_weights_that_the_layers_use(
    small: ModelConfig, encoder: Encoder
) -> None:
    config = replace(small, encoder=encoder)
    bert = BertForPreTraining(config, nnx.Rngs(0)).bert
    token_ids, token_type_ids, segment_ids = inputs()[:3]
    weights = bert.attention_probabilities(token_ids, token_type_ids, segment_ids)
    assert weights.shape == (L, B, N, T, T)
    assert weights.dtype == jnp.float32
    attention_mask = AttentionMask(segment_ids, left_to_right=encoder == "left-to-right")
    mask = np.broadcast_to(np.asarray(attention_mask.mask())[None, :, None], weights.shape)
    assert np.all(np.asarray(weights)[~mask] == 0)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
    _, states = bert.hidden_states(token_ids, token_type_ids, segment_ids)
    definition, arrays = nnx.split(bert.layers)
    for number in range(L):
        layer = nnx.merge(definition, jax.tree.map(lambda a, n=number: a[n], arrays))
        attention, x = layer.attention, states[number]
        heads = jnp.einsum("BNTS,BSNH->BTNH", weights[number], attention.value(x))
        expected = attention(x, attention_mask, None)
        np.testing.assert_allclose(attention.output(heads), expected, atol=1e-5)


def test_a_row_without_any_token_gives_numbers(model: Forward) -> None:
    token_ids, token_type_ids, mask, positions = inputs()
    logits = model(token_ids, token_type_ids, jnp.zeros_like(mask), positions)
    assert np.isfinite(logits.mlm).all()


def test_dropout_is_keyed_and_keeps_the_mean() -> None:
    x = jnp.ones((400, 500))
    dropped = dropout(x, 0.1, jax.random.key(1))
    assert np.mean(dropped == 0) == pytest.approx(0.1, abs=0.003)
    assert dropped.mean() == pytest.approx(1, abs=0.005)
    assert (dropped == dropout(x, 0.1, jax.random.key(1))).all()
    assert (dropped != dropout(x, 0.1, jax.random.key(2))).any()
    assert dropout(x, 0.1, None) is x


def test_initial_weights_are_the_truncated_normal(small: ModelConfig) -> None:
    config = replace(small, hidden_size=200, vocab_size=500, initializer_range=0.02)
    params = init_params(config, 0)
    table = np.array(params["bert"]["embeddings"]["token"])
    assert np.abs(table).max() <= 0.04
    assert table.std() == pytest.approx(0.02 * 0.8796, rel=0.01)
    kernels = np.array(params["bert"]["layers"]["attention"]["query"]["kernel"])
    assert kernels.std() == pytest.approx(0.02 * 0.8796, rel=0.02)
    assert not np.allclose(kernels[0], kernels[1])
    other = init_params(config, 1)
    assert not np.allclose(table, other["bert"]["embeddings"]["token"])
    assert not np.any(params["mlm"]["bias"])


def test_gelu_follows_the_config(model: Forward, small: ModelConfig) -> None:
    erf = compiled(replace(small, gelu="erf"))
    difference = np.abs(model(*inputs()).mlm - erf(*inputs()).mlm).max()
    assert 1e-7 < difference < 0.05


@pytest.mark.parametrize("of", [3, "key"])
def test_initial_keys_are_those_of_flax(of: int | str) -> None:
    seed = jax.random.key(7) if of == "key" else 3
    ours, theirs = init_rngs(seed), nnx.Rngs(seed)
    for _ in range(3):
        assert jnp.array_equal(ours.params(), theirs.params())
