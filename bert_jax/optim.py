"""The update rules: what is done with a gradient, and the learning rate of every step.

An optimiser here turns gradients into a direction; the step scales it by the learning rate and
subtracts it, so that the rate is a pure function of the step and no counter is kept twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bert_jax.config import OptimizerConfig


def optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping by the global norm, Adam's direction, decoupled weight decay.

    ``adamw`` corrects the bias of the moments (Loshchilov and Hutter 2019). ``bert2018`` does not,
    as google-research/bert's ``optimization.py``. That code also clips on every core before it sums
    the gradients of all cores, so its result depends on their number; here the norm is global.
    """
    adam = optax.scale_by_adam if config.recipe == "adamw" else scale_by_uncorrected_adam
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
    )


def learning_rate(config: OptimizerConfig, steps: int) -> Callable[[Array], Array]:
    """The learning rate of update number `step` (0 is the first) of `steps`.

    ``adamw`` rises linearly to the peak in the last warm-up step and falls linearly, to reach 0 one
    step after the end. ``bert2018`` follows the published code: 0 at step 0, and the falling line
    starts at step 0 too, so the rate drops where the warm-up ends.
    """
    peak, warmup = config.learning_rate, config.warmup_steps

    def published(step: Array) -> Array:
        falling = 1.0 - step / steps
        return peak * jnp.where(step < warmup, step / max(warmup, 1), falling)

    def linear(step: Array) -> Array:
        rising = (step + 1.0) / max(warmup, 1)
        falling = (steps - step) / max(steps - warmup, 1)
        return peak * jnp.where(step < warmup, rising, falling)

    return published if config.recipe == "bert2018" else linear


def decay_mask(params: optax.Params) -> optax.Params:
    """Which parameters decay: all but biases and LayerNorm, told by their names.

    Embeddings do decay, as in google-research/bert.
    """

    def decays(path: tuple[jax.tree_util.DictKey, ...], _: Array) -> bool:
        names = [str(entry.key) for entry in path]
        return names[-1] != "bias" and not any(name.endswith("norm") for name in names)

    return jax.tree_util.tree_map_with_path(decays, params)


class Moments(NamedTuple):
    """Running means of the gradient and of its square."""

    mu: optax.Updates
    nu: optax.Updates


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam without bias correction; epsilon stands outside the root."""

    def init(params: optax.Params) -> Moments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Moments(mu=zeros, nu=zeros)

    def update(
        grads: optax.Updates, state: Moments, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Moments]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, grads)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), Moments(mu, nu)

    return optax.GradientTransformation(init, update)
