"""One update and one evaluation, as pure functions of (state, batch).

They are written for one device's rows of a batch; `parallel` runs them on all devices, where
`reduce` sums over these. Numerators and denominators are reduced apart and divided once: a mean of
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

from bert_jax.config.run import ModelConfig, RunConfig
from bert_jax.nn.encoder import PretrainingLogits
from bert_jax.training.losses import MetricSums, cross_entropy
from bert_jax.training.optimizers import optimizer, schedule
from bert_jax.training.state import Params, TrainState, define

DeviceBatch = dict[str, Array]
Metrics = dict[str, Array]
Reduce = Callable[[Any], Any]


def unreduced(tree: Any) -> Any:
    """The reduction where one device has the whole batch."""
    return tree


# Name of an objective -> its sums over a batch.
LossSums = dict[str, MetricSums]
Objectives = Callable[[Params, DeviceBatch, Array | None], LossSums]


def pretraining_sums(found: PretrainingLogits, batch: DeviceBatch) -> LossSums:
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
        batch["token_type_ids"],
        batch["segment_ids"],
        batch["mlm_positions"],
        key,
        batch.get("position_ids"),
        batch.get("cls_positions"),
    )


def pretraining(config: ModelConfig) -> Objectives:
    """Both objectives of BERT."""
    model = define(config)

    def objectives(params: Params, batch: DeviceBatch, key: Array | None) -> LossSums:
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
        lr_scales: Factor of the learning rate, broadcast against its parameter; 0 freezes it and
            leaves its gradient out of the norm. None is 1 everywhere.
        accumulate: A, parts of a batch that run one after the other; their sums are added up.
        compute_dtype: The dtype of matrix products.
    """

    objectives: Objectives
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Array], Array]
    seed: int
    lr_scales: Params | None = None
    accumulate: int = 1
    compute_dtype: str = "float32"

    @classmethod
    def of(cls, config: RunConfig) -> Steps:
        """The functions of pre-training."""
        return cls(
            objectives=pretraining(config.model),
            optimizer=optimizer(config.optimizer),
            learning_rate=schedule(config.optimizer, config.phases),
            seed=config.seed,
            accumulate=config.train.accumulate,
            compute_dtype=config.model.dtype,
        )

    def param_gather_dtype(self, params: Params) -> Any:
        """The dtype in which one device may send each parameter to another, losing nothing.

        Kernels of the encoder's layers are rounded to that of products wherever they are used.
        """

        def dtype(path: tuple[jax.tree_util.DictKey, ...], leaf: Array) -> jnp.dtype:
            names = [entry.key for entry in path]
            rounded = "layers" in names and names[-1] == "kernel"
            return jnp.dtype(self.compute_dtype) if rounded else leaf.dtype

        return jax.tree_util.tree_map_with_path(dtype, params)

    def train(
        self, state: TrainState, batch: DeviceBatch, reduce: Reduce = unreduced
    ) -> tuple[TrainState, Metrics]:
        """One update.

        The loss is the sum of the means of all objectives, each over the whole batch; in
        pre-training mean MLM + mean NSP cross-entropy (paper, section 3.1). google-research/bert
        instead averages the MLM loss on each core.

        Args:
            state: Before the update.
            batch: Arrays as in `batch.FIELDS` and, if packed, `batch.PACKED_FIELDS`.
            reduce: Sums a tree over the devices.

        Returns:
            The state after the update, and float32 scalars for the log.
        """
        gradients, found = self.gradients(state.params, state.step, batch, reduce)
        return self.update(state, *reduce((gradients, found)))

    def gradients(
        self, params: Params, step: Array, batch: DeviceBatch, reduce: Reduce = unreduced
    ) -> tuple[Params, LossSums]:
        """This device's part of the gradients of the loss, and its sums; to be reduced."""
        key = jax.random.fold_in(jax.random.key(self.seed), step)

        def loss(params: Params, batch: DeviceBatch, key: Array, counts: Any) -> Any:
            found = self.objectives(params, batch, key)
            # Without a single label (masked language model alone) a term is 0.
            terms = [tally.loss / jnp.maximum(counts[n], 1) for n, tally in found.items()]
            return sum(terms, jnp.zeros(())), found

        # They do not depend on the network, of which the compiler leaves nothing here.
        counted = self.objectives(params, batch, None)
        counts = reduce({name: tally.count for name, tally in counted.items()})
        of_part = jax.grad(loss, has_aux=True)
        if self.accumulate == 1:
            return of_part(params, batch, key, counts)

        def add(total: Any, part: tuple[DeviceBatch, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, of_part(params, *part, counts)), None

        # Every A-th row: so it does not depend on the number of devices which rows of the whole
        # batch make a part.
        parts = {
            name: jnp.moveaxis(x.reshape(-1, self.accumulate, *x.shape[1:]), 1, 0)
            for name, x in batch.items()
        }
        first = {name: x[0] for name, x in parts.items()}
        shapes = jax.eval_shape(of_part, params, first, key, counts)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zeros, (parts, jax.random.split(key, self.accumulate)))[0]

    def update(
        self, state: TrainState, gradients: Params, found: LossSums
    ) -> tuple[TrainState, Metrics]:
        """What is done with the gradients and sums of the whole batch.

        Args:
            state: Before the update.
            gradients: As large as the parameters.
            found: Over the whole batch.
        """
        if self.lr_scales is not None:
            gradients = jax.tree.map(
                lambda g, rate: g * (rate > 0).astype(g.dtype), gradients, self.lr_scales
            )
        rate = self.learning_rate(state.step.astype(jnp.float32))
        direction, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        if self.lr_scales is not None:
            direction = jax.tree.map(jnp.multiply, direction, self.lr_scales)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        metrics = means(found) | {
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": rate,
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    def evaluate(self, params: Params, batch: DeviceBatch, reduce: Reduce = unreduced) -> LossSums:
        """Sums over a batch, without dropout."""
        return reduce(self.objectives(params, batch, None))


def means(found: LossSums) -> Metrics:
    """Losses and accuracies from sums; 0 where nothing was counted. "loss" adds up the losses."""
    counts = {name: tally.count + (tally.count == 0) for name, tally in found.items()}
    losses = {f"{name}_loss": tally.loss / counts[name] for name, tally in found.items()}
    accuracies = {
        f"{name}_accuracy": tally.correct / counts[name]
        for name, tally in found.items()
        if tally.correct is not None
    }
    return {"loss": sum(losses.values()), **losses, **accuracies}  # type: ignore[dict-item]
