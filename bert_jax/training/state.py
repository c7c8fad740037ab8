"""The state of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.nn.encoder import Params, init_params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Arrays only: random keys follow from the seed and the step, data from the step.

    Attributes:
        step: int32 scalar, the number of updates done.
        params: Nested dict of float32 arrays.
        opt_state: State of the optimizer.
    """

    step: Array
    params: Params
    opt_state: optax.OptState


WarmStart = Callable[[], TrainState]


def init_state(
    config: ModelConfig, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Return the state before the first update, with new parameters."""
    return new_state(optimizer, init_params(config, seed))


def new_state(optimizer: optax.GradientTransformation, params: Params) -> TrainState:
    """Return the state before the first update of `params`."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def parameter_count(params: Params) -> int:
    """Return the number of scalars in `params`, abstract or not."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
