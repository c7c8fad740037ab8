"""Update rules, against NumPy implementations of the published ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import OptimizerConfig, Phase
from bert_jax.nn.encoder import init_params
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.optimizers import (
    OPTIMIZERS,
    decay_mask,
    learning_rate,
    optimizer,
    scale_by_trust,
    scaled,
    schedule,
)

Recipe = Literal["adamw", "bert2018", "lamb"]


def reference(recipe: Recipe, steps: int) -> dict[str, np.ndarray]:
    """Return a kernel (with decay) and a bias (without) after `steps` updates in float64."""
    config = OptimizerConfig(recipe=recipe, learning_rate=0.01, warmup_steps=10)
    values = {"kernel": np.full((2, 3), 0.5), "bias": np.full(3, 0.5)}
    first = {name: np.zeros_like(x) for name, x in values.items()}
    second = {name: np.zeros_like(x) for name, x in values.items()}
    for step in range(steps):
        grads = gradient(step)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        if recipe == "bert2018":
            rate = 0.01 * (step / 10 if step < 10 else 1 - step / steps)
        else:
            rate = 0.01 * ((step + 1) / 10 if step < 10 else (steps - step) / (steps - 10))
        for name, grad in grads.items():
            clipped = grad / max(1.0, norm)
            first[name] = 0.9 * first[name] + 0.1 * clipped
            second[name] = 0.999 * second[name] + 0.001 * clipped**2
            m, v = first[name], second[name]
            if recipe != "bert2018":
                m, v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            direction = m / (np.sqrt(v) + config.epsilon)
            if name == "kernel":
                direction = direction + 0.01 * values[name]
                if recipe == "lamb":
                    direction *= np.linalg.norm(values[name]) / np.linalg.norm(direction)
            values[name] = values[name] - rate * direction
    return values


def gradient(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    scale = 3.0 if step % 7 == 0 else 0.1  # some are clipped, most are not
    return {"kernel": rng.normal(0, scale, (2, 3)), "bias": rng.normal(0, scale, 3)}


def test_every_optimizer_can_be_chosen_in_a_config() -> None:
    assert get_args(get_type_hints(OptimizerConfig)["recipe"]) == tuple(OPTIMIZERS)


@pytest.mark.parametrize("recipe", OPTIMIZERS)
def test_every_optimizer_moves_against_the_gradient_unless_frozen(recipe: Recipe) -> None:
    config = OptimizerConfig(recipe=recipe, learning_rate=0.01, warmup_steps=1, weight_decay=0)
    params: optax.Params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    scales = {"kernel": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    rule = optimizer(config, (Phase(steps=50),), scales)
    state, updated = rule.init(params), params
    for step in range(2):
        updates, state = rule.update(params, state, updated, step=jnp.int32(step))
        updated = optax.apply_updates(updated, updates)
    assert bool((updated["kernel"] < params["kernel"]).all())
    assert bool((updated["bias"] == params["bias"]).all())


def test_learning_rates_of_a_stock_transformation_are_scaled() -> None:
    params: optax.Params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    scales = {"kernel": np.full((1, 1), 0.5, np.float32), "bias": np.zeros(1, np.float32)}
    rule = scaled(optax.sgd(0.1), scales)
    updates, _ = rule.update(params, rule.init(params), params, step=jnp.int32(0))
    assert np.allclose(updates["kernel"], -0.05)
    assert not np.any(updates["bias"])


@pytest.mark.parametrize("recipe", get_args(Recipe))
def test_fifty_updates_are_the_published_rule(recipe: Recipe) -> None:
    config = OptimizerConfig(recipe=recipe, learning_rate=0.01, warmup_steps=10)
    rule = optimizer(config, (Phase(steps=50),))
    params: optax.Params = {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.full(3, 0.5)}
    state = rule.init(params)
    for step in range(50):
        grads = jax.tree.map(lambda g: jnp.array(g, jnp.float32), gradient(step))
        updates, state = rule.update(grads, state, params, step=jnp.int32(step))
        params = optax.apply_updates(params, updates)
    expected = reference(recipe, 50)
    for name in expected:
        assert np.abs(np.array(params[name]) - expected[name]).max() <= 1e-6


def test_learning_rate_lines() -> None:
    ours = learning_rate(OptimizerConfig(learning_rate=1.0, warmup_steps=4), 10)
    steps = jnp.arange(10.0)
    assert np.allclose(ours(steps), [0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    code = OptimizerConfig(recipe="bert2018", learning_rate=1.0, warmup_steps=4)
    published = learning_rate(code, 10)
    assert np.allclose(published(steps), [0, 0.25, 0.5, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    for config in (code, OptimizerConfig(learning_rate=1.0, warmup_steps=0)):
        assert np.isfinite(learning_rate(config, 10)(steps)).all()


def test_decay_spares_biases_and_layer_norm_only() -> None:
    config = ModelConfig(preset="bert-tiny", vocab_size=50).resolved()
    params = jax.eval_shape(partial(init_params, config, 0))
    names = jax.tree_util.tree_leaves_with_path(decay_mask(params))
    decayed = {
        jax.tree_util.keystr(path, simple=True, separator="/") for path, decays in names if decays
    }
    assert all(name.endswith(("kernel", "token", "segment", "position")) for name in decayed)
    spared = len(names) - len(decayed)
    # 3 embeddings, 6 kernels of a layer, pooler, transform, classifier.
    assert len(decayed) == 3 + 6 + 3
    # 5 LayerNorms of two, 9 biases of affine maps, the output bias.
    assert spared == 2 * 4 + 9 + 1


def test_lamb_scales_every_layer_of_a_stack_by_itself() -> None:
    rng = np.random.default_rng(0)
    params = {"layers": {"kernel": jnp.array(rng.normal(size=(3, 4, 5)))}, "other": jnp.zeros(3)}
    directions = jax.tree.map(lambda p: jnp.array(rng.normal(size=p.shape)), params)
    updates, _ = scale_by_trust().update(directions, optax.EmptyState(), params)
    norms = [np.linalg.norm(tree["layers"]["kernel"], axis=(1, 2)) for tree in (params, updates)]
    assert np.allclose(norms[0], norms[1], rtol=1e-5)
    assert (updates["other"] == directions["other"]).all(), "the norm of zeros is zero"


def test_phases_with_learning_rates_restart_the_schedule() -> None:
    phases = (
        Phase(128, 10, 8, learning_rate=1.0, warmup_steps=2),
        Phase(512, 5, 4, learning_rate=0.5, warmup_steps=1),
    )
    config = OptimizerConfig(recipe="lamb", learning_rate=9.0, warmup_steps=9)
    rates = [float(schedule(config, phases)(jnp.float32(step))) for step in range(16)]
    first = [0.5, 1.0, *((10 - step) / 8 for step in range(2, 10))]
    second = [0.5, *(0.5 * (5 - step) / 4 for step in range(1, 5))]
    assert rates == pytest.approx([*first, *second, 0.0])
    shared = tuple(replace(phase, learning_rate=0.0, warmup_steps=0) for phase in phases)
    single = learning_rate(config, 15)
    assert float(schedule(config, shared)(jnp.float32(12))) == float(single(jnp.float32(12)))
    with pytest.raises(BadInputError, match="warmup_steps needs a learning_rate"):
        Phase(128, 10, 8, warmup_steps=2)


def test_the_first_moment_can_be_bfloat16() -> None:
    grads: optax.Params = {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3)}
    for recipe in ("adamw", "bert2018", "lamb"):
        full, half = (
            optimizer(OptimizerConfig(recipe=recipe, first_moment=dtype), (Phase(steps=3),))
            for dtype in ("float32", "bfloat16")
        )
        states = [rule.init(grads) for rule in (full, half)]
        for _ in range(3):
            expected, states[0] = full.update(grads, states[0], grads, step=jnp.int32(0))
            updates, states[1] = half.update(grads, states[1], grads, step=jnp.int32(0))
        assert np.allclose(expected["kernel"], updates["kernel"], rtol=0.02, atol=1e-3)
        assert (
            next(part.mu for part in states[1] if hasattr(part, "mu"))["kernel"].dtype == "bfloat16"
        )
