"""One update and one evaluation, as pure functions of (state, batch).

They are written for the whole batch. `parallel` runs them over devices either as one program on
sharded arrays (jit), where `reduce` is the identity, or on one shard each (pmap), where it sums
over the devices. Numerators and denominators are reduced apart and divided once: a mean of
per-device means would be wrong as soon as devices hold different numbers of predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from bert_jax.config import ModelConfig, RunConfig
from bert_jax.losses import Tally, cross_entropy
from bert_jax.model import PretrainingLogits
from bert_jax.optim import learning_rate, optimizer
from bert_jax.state import Params, TrainState, define

DeviceBatch = dict[str, Array]
Metrics = dict[str, Array]
Reduce = Callable[[Any], Any]


def unreduced(tree: Any) -> Any:
    """The reduction of a program that sees the whole batch."""
    return tree


# Name of an objective -> its sums over a batch.
Sums = dict[str, Tally]
Objectives = Callable[[Params, DeviceBatch, Array | None], Sums]


def pretraining_sums(found: PretrainingLogits, batch: DeviceBatch) -> Sums:
    """Losses and accuracies of a batch, as sums."""
    return {
        "mlm": cross_entropy(found.mlm, batch["mlm_targets"], batch["mlm_weights"]),
        "nsp": cross_entropy(found.nsp, batch["nsp_labels"], batch["nsp_weights"]),
    }


def forward(
    model: nnx.GraphDef, params: Params, batch: DeviceBatch, key: Array | None
) -> PretrainingLogits:
    """Runs a network (see `state.define`) on a batch."""
    return nnx.merge(model, params)(
        batch["token_ids"],
        batch["segment_ids"],
        batch["sequence_ids"],
        batch["mlm_positions"],
        key,
        batch.get("position_ids"),
        batch.get("cls_positions"),
    )


def pretraining(config: ModelConfig) -> Objectives:
    """Both objectives of BERT."""
    model = define(config)

    def objectives(params: Params, batch: DeviceBatch, key: Array | None) -> Sums:
        return pretraining_sums(forward(model, params, batch, key), batch)

    return objectives


@dataclass(frozen=True)
class Steps:
    """The functions of a run.

    Attributes:
        objectives: Runs the network on a batch; without a key there is no dropout.
        optimizer: Gradients to directions.
        learning_rate: Of each step.
        seed: Of dropout.
        rates: Factor of each parameter's learning rate, broadcast against it; 0 freezes it, and its
            gradient counts for nothing. None is 1 everywhere.
    """

    objectives: Objectives
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Array], Array]
    seed: int
    rates: Params | None = None

    @classmethod
    def of(cls, config: RunConfig) -> Steps:
        """The functions of pre-training."""
        return cls(
            objectives=pretraining(config.model),
            optimizer=optimizer(config.optimizer),
            learning_rate=learning_rate(config.optimizer, config.steps),
            seed=config.seed,
        )

    def train(
        self,
        state: TrainState,
        batch: DeviceBatch,
        reduce: Reduce = unreduced,
        shard: Array | None = None,
    ) -> tuple[TrainState, Metrics]:
        """One update.

        The loss is the sum of the means of all objectives, each over the whole batch; in
        pre-training mean MLM + mean NSP cross-entropy (paper, section 3.1). google-research/bert
        instead averages the MLM loss on each core.

        Args:
            state: Before the update.
            batch: Arrays as in `batch.FIELDS` and, if packed, `batch.PACKED_FIELDS`.
            reduce: Sums a tree over the devices.
            shard: Number of this device where each has its own rows; its dropout differs then.

        Returns:
            The state after the update, and float32 scalars for the log.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        if shard is not None:
            key = jax.random.fold_in(key, shard)

        def loss(params: Params) -> tuple[Array, Sums]:
            found = self.objectives(params, batch, key)
            # Without a single label (masked language model alone) a term is 0.
            counts = reduce({name: tally.count for name, tally in found.items()})
            terms = [tally.loss / jnp.maximum(counts[name], 1) for name, tally in found.items()]
            return sum(terms, jnp.zeros(())), found

        (_, found), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        grads, found = reduce((grads, found))
        if self.rates is not None:
            grads = jax.tree.map(lambda g, r: g * (r > 0).astype(g.dtype), grads, self.rates)
        rate = self.learning_rate(state.step.astype(jnp.float32))
        direction, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        if self.rates is not None:
            direction = jax.tree.map(jnp.multiply, direction, self.rates)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        metrics = means(found) | {
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate,
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    def evaluate(self, params: Params, batch: DeviceBatch, reduce: Reduce = unreduced) -> Sums:
        """Sums over a batch, without dropout."""
        return reduce(self.objectives(params, batch, None))


def means(found: Sums) -> Metrics:
    """Losses and accuracies from sums; 0 where nothing was counted. "loss" adds up the losses."""
    counts = {name: tally.count + (tally.count == 0) for name, tally in found.items()}
    losses = {f"{name}_loss": tally.loss / counts[name] for name, tally in found.items()}
    accuracies = {
        f"{name}_accuracy": tally.correct / counts[name]
        for name, tally in found.items()
        if tally.correct is not None
    }
    return {"loss": sum(losses.values()), **losses, **accuracies}  # type: ignore[dict-item]
