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

from bert_jax.config import RunConfig
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


@dataclass(frozen=True)
class Objectives:
    """Sums of both objectives over a batch."""

    mlm: Tally
    nsp: Tally


jax.tree_util.register_dataclass(Objectives)


def objectives(found: PretrainingLogits, batch: DeviceBatch) -> Objectives:
    """Losses and accuracies of a batch, as sums."""
    return Objectives(
        mlm=cross_entropy(found.mlm, batch["mlm_targets"], batch["mlm_weights"]),
        nsp=cross_entropy(found.nsp, batch["nsp_labels"], batch["nsp_weights"]),
    )


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


@dataclass(frozen=True)
class Steps:
    """The functions of a run.

    Attributes:
        model: The network without arrays.
        optimizer: Gradients to directions.
        learning_rate: Of each step.
        seed: Of dropout.
    """

    model: nnx.GraphDef
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Array], Array]
    seed: int

    @classmethod
    def of(cls, config: RunConfig) -> Steps:
        """The functions that `config` describes."""
        return cls(
            model=define(config.model),
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

        The loss is mean MLM cross-entropy + mean NSP cross-entropy (paper, section 3.1), both over
        the whole batch. google-research/bert instead averages the MLM loss on each core.

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
        mlm_count = reduce(jnp.sum(batch["mlm_weights"]))
        nsp_count = reduce(jnp.sum(batch["nsp_weights"]))

        def loss(params: Params) -> tuple[Array, Objectives]:
            found = objectives(forward(self.model, params, batch, key), batch)
            # Without a single label (masked language model alone) the second term is 0.
            return found.mlm.loss / mlm_count + found.nsp.loss / jnp.maximum(nsp_count, 1), found

        (_, found), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        grads, found = reduce((grads, found))
        rate = self.learning_rate(state.step.astype(jnp.float32))
        direction, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        metrics = means(found) | {
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate,
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    def evaluate(
        self, params: Params, batch: DeviceBatch, reduce: Reduce = unreduced
    ) -> Objectives:
        """Sums over a batch, without dropout."""
        return reduce(objectives(forward(self.model, params, batch, None), batch))


def means(found: Objectives) -> Metrics:
    """Losses in nats and accuracies from sums."""
    labels = found.nsp.count + (found.nsp.count == 0)
    mlm_loss, nsp_loss = found.mlm.loss / found.mlm.count, found.nsp.loss / labels
    return {
        "loss": mlm_loss + nsp_loss,
        "mlm_loss": mlm_loss,
        "nsp_loss": nsp_loss,
        "mlm_accuracy": found.mlm.correct / found.mlm.count,
        "nsp_accuracy": found.nsp.correct / labels,
    }
