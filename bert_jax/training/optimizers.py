"""Optimizers by name, and the learning rate of every update.

An entry of `OPTIMIZERS` builds a complete optax transformation, its learning rate included; a stock
one is entered with `scaled`. Ours count no updates themselves: they receive the step of the run as
the extra argument ``step``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bert_jax.config.run import OptimizerConfig, Phase

Schedule = Callable[[Array], Array]


def optimizer(
    config: OptimizerConfig, phases: Sequence[Phase], lr_scales: optax.Params | None = None
) -> optax.GradientTransformation:
    """Return the optimizer of a run with these phases.

    Args:
        config: The optimizer of the run.
        phases: The phases of the run.
        lr_scales: Factors of the learning rate, broadcast against the parameters; None is 1.
    """
    return OPTIMIZERS[config.recipe](config, schedule(config, phases), lr_scales)


def _adam_with_decay(
    config: OptimizerConfig,
    rate: Schedule,
    lr_scales: optax.Params | None,
    adam: Callable[..., optax.GradientTransformation],
    *last: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Chain clipping by the global norm, Adam, decoupled weight decay and `last`."""
    direction = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        adam(
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            mu_dtype=jnp.dtype(config.first_moment),
        ),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        *last,
    )
    return at_learning_rate(direction, rate, lr_scales)


def at_learning_rate(
    direction: optax.GradientTransformation, rate: Schedule, lr_scales: optax.Params | None
) -> optax.GradientTransformationExtraArgs:
    """Scale the updates of `direction` by minus the learning rate of ``step``; adds no state."""

    def update(
        gradients: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        step: Array,
        **_: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        directions, state = direction.update(gradients, state, params)
        factor = -rate(step.astype(jnp.float32))
        return jax.tree.map(lambda d: factor * d, _times(directions, lr_scales)), state

    return optax.GradientTransformationExtraArgs(direction.init, update)


def scaled(
    stock: optax.GradientTransformation, lr_scales: optax.Params | None
) -> optax.GradientTransformationExtraArgs:
    """Apply `lr_scales` to the updates of a transformation that has its own learning rate."""
    stock = optax.with_extra_args_support(stock)

    def update(
        gradients: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = stock.update(gradients, state, params, **extra)
        return _times(updates, lr_scales), state

    return optax.GradientTransformationExtraArgs(stock.init, update)


def _times(updates: optax.Updates, scales: optax.Params | None) -> optax.Updates:
    return updates if scales is None else jax.tree.map(jnp.multiply, updates, scales)


def schedule(config: OptimizerConfig, phases: Sequence[Phase]) -> Schedule:
    """Return the schedule of a run: one for all phases, or one for each (see `Phase`)."""
    if not phases[0].learning_rate:
        return learning_rate(config, sum(phase.steps for phase in phases))
    starts = list(accumulate((phase.steps for phase in phases), initial=0))
    schedules = [
        learning_rate(
            replace(config, learning_rate=phase.learning_rate, warmup_steps=phase.warmup_steps),
            phase.steps,
        )
        for phase in phases
    ]

    def rate(step: Array) -> Array:
        values = [
            of_phase(step - start) for of_phase, start in zip(schedules, starts, strict=False)
        ]
        return jnp.select([step < end for end in starts[1:]], values, 0.0)

    return rate


def learning_rate(config: OptimizerConfig, steps: int) -> Schedule:
    """Return the learning rate of update number `step` (0 is the first) of `steps`.

    ``adamw`` and ``lamb`` rise linearly to the peak in the last warm-up step and fall linearly, to
    reach 0 one step after the end. ``bert2018`` follows the published code: 0 at step 0, and the
    falling line starts at step 0 too, so the rate drops where the warm-up ends.
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
    """Select the parameters that decay: all but biases and LayerNorm, by their names.

    Embeddings do decay, as in google-research/bert.
    """

    def decays(path: tuple[jax.tree_util.DictKey, ...], _: Array) -> bool:
        return _decays([str(entry.key) for entry in path])

    return jax.tree_util.tree_map_with_path(decays, params)


def _decays(names: Sequence[str]) -> bool:
    return names[-1] != "bias" and not any(name.endswith("norm") for name in names)


class Moments(NamedTuple):
    """Running means of the gradient and of its square."""

    mu: optax.Updates
    nu: optax.Updates


def scale_by_trust() -> optax.GradientTransformation:
    """Scale each update to the norm of its parameter: LAMB's trust ratio (You et al. 2020).

    Algorithm 2 of the paper; each layer of a stack counts as an array. As in
    google-research/albert's ``lamb_optimizer.py`` biases and LayerNorm are left as they are.
    """

    def scaled(path: tuple[jax.tree_util.DictKey, ...], direction: Array, param: Array) -> Array:
        names = [str(entry.key) for entry in path]
        if not _decays(names):
            return direction
        axes = tuple(range(int("layers" in names), param.ndim))
        of_param, of_direction = (
            jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (param, direction)
        )
        nonzero = (of_param > 0) & (of_direction > 0)
        return direction * jnp.where(nonzero, of_param / jnp.where(nonzero, of_direction, 1), 1)

    def update(
        directions: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        return jax.tree_util.tree_map_with_path(scaled, directions, params), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def scale_by_uncorrected_adam(
    b1: float, b2: float, eps: float, mu_dtype: jnp.dtype
) -> optax.GradientTransformation:
    """Return Adam without bias correction; epsilon is added outside the root."""

    def init(params: optax.Params) -> Moments:
        mu, nu = (
            jax.tree.map(lambda p, dtype=dtype: jnp.zeros(p.shape, dtype), params)
            for dtype in (mu_dtype, jnp.float32)
        )
        return Moments(mu, nu)

    def update(
        grads: optax.Updates, state: Moments, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Moments]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, grads)
        kept = jax.tree.map(lambda m: m.astype(mu_dtype), mu)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), Moments(kept, nu)

    return optax.GradientTransformation(init, update)


Build = Callable[[OptimizerConfig, Schedule, optax.Params | None], optax.GradientTransformation]
# Name of optimizer.recipe -> (config, learning rate of an update, its factors) -> transformation.
# A stock one is entered as: lambda config, rate, lr_scales: scaled(optax.lion(rate), lr_scales).
OPTIMIZERS: Mapping[str, Build] = {
    # Bias-corrected moments (Loshchilov and Hutter 2019).
    "adamw": partial(_adam_with_decay, adam=optax.scale_by_adam),
    # No bias correction, as in google-research/bert's optimization.py. That code also clips on
    # every core before it sums the gradients of all cores, so its result depends on their number;
    # here the norm is global.
    "bert2018": partial(_adam_with_decay, adam=scale_by_uncorrected_adam),
    # adamw with layer-wise trust ratios (You et al. 2020).
    "lamb": lambda config, rate, lr_scales: _adam_with_decay(
        config, rate, lr_scales, optax.scale_by_adam, scale_by_trust()
    ),
}
