"""What training changes from step to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from bert_jax.config.run import ModelConfig
from bert_jax.nn.encoder import BertForPreTraining

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Arrays only: random keys follow from the seed and the step, data from the step.

    Attributes:
        step: int32 scalar: updates done.
        params: Nested dict of float32 arrays.
        opt_state: Of the optimiser.
    """

    step: Array
    params: Params
    opt_state: optax.OptState


WarmStart = Callable[[], TrainState]


@cache
def define(config: ModelConfig) -> nnx.GraphDef[BertForPreTraining]:
    """The network without its arrays; `nnx.merge` with parameters makes it callable."""
    return nnx.graphdef(nnx.eval_shape(lambda: BertForPreTraining(config, nnx.Rngs(0))))


def init_params(config: ModelConfig, seed: int) -> Params:
    """Fresh parameters."""
    return nnx.to_pure_dict(nnx.state(BertForPreTraining(config, nnx.Rngs(seed))))


def init_state(
    config: ModelConfig, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state before the first update, with fresh parameters."""
    return new_state(optimizer, init_params(config, seed))


def new_state(optimizer: optax.GradientTransformation, params: Params) -> TrainState:
    """The state before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def parameter_count(params: Params) -> int:
    """Number of scalars in `params`, abstract or not."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
