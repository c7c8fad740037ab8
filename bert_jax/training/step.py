"""One update and one evaluation, as pure functions of (state, batch).

Read top down: forward pass, loss sums, one division by the counts of the whole batch,
accumulation, update. The functions see one device's rows of a batch; `partitioner` maps them over
the devices and passes `reduce`, which sums over these. Numerators and counts are summed separately
and divided once: a mean of per-device means is wrong as soon as devices have different numbers of
predictions.
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

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import RunConfig
from bert_jax.nn import packed_rows
from bert_jax.nn.encoder import Params, PretrainingLogits, define
from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.training.layers_apart import together
from bert_jax.training.losses import MetricSums, cross_entropy
from bert_jax.training.optimizers import optimizer, schedule
from bert_jax.training.state import TrainState

DeviceBatch = dict[str, Array]
Metrics = dict[str, Array]
Counts = dict[str, Array]
LossSums = dict[str, MetricSums]  # name of a loss term -> its sums
Reduce = Callable[[Any], Any]


def unreduced(tree: Any) -> Any:
    """Return `tree`: the reduction where one device has the whole batch."""
    return tree


@dataclass(frozen=True)
class Objective:
    """The loss terms of a run.

    Attributes:
        loss_sums: Runs the network on a batch; without a key there is no dropout.
        counts: The number of predictions of each term, from the batch alone.
    """

    loss_sums: Callable[[Params, DeviceBatch, Array | None], LossSums]
    counts: Callable[[DeviceBatch], Counts]


def forward(
    model: nnx.GraphDef, params: Params, batch: DeviceBatch, key: Array | None
) -> PretrainingLogits:
    """Run a network (see `encoder.define`) on a batch."""
    return nnx.merge(model, params)(
        batch["token_ids"],  # [B, T]
        batch["token_type_ids"],  # [B, T]
        batch["segment_ids"],  # [B, T]
        batch["mlm_positions"],  # [B, P]
        key,
        batch.get("position_ids"),  # [B, T]
        batch.get("cls_positions"),  # [B, K]
    )


def pretraining_sums(logits: PretrainingLogits, batch: DeviceBatch) -> LossSums:
    """Return losses and accuracies of a batch, as sums."""
    return {
        # [B, P, V], [B, P], [B, P]
        "mlm": cross_entropy(logits.mlm, batch["mlm_targets"], batch["mlm_weights"]),
        # [B, K, 2], [B, K], [B, K]
        "nsp": cross_entropy(logits.nsp, batch["nsp_labels"], batch["nsp_weights"]),
    }


def pretraining_counts(batch: DeviceBatch) -> Counts:
    """Return the numbers of masked tokens and of labeled sequences."""
    return {"mlm": jnp.sum(batch["mlm_weights"]), "nsp": jnp.sum(batch["nsp_weights"])}


def pretraining(config: ModelConfig) -> Objective:
    """Return the two losses of BERT (paper, section 3.1)."""
    model = define(config)

    def loss_sums(params: Params, batch: DeviceBatch, key: Array | None) -> LossSums:
        return pretraining_sums(forward(model, params, batch, key), batch)

    return Objective(loss_sums, pretraining_counts)


def task_objective(
    network: TaskNetwork, loss_sums: Callable[[Array, DeviceBatch], MetricSums]
) -> Objective:
    """Return the loss of a fine-tuning task under the name ``task``.

    Args:
        network: Encoder and head.
        loss_sums: (logits, batch) -> sums; counts the ``weights`` of the batch.
    """
    model = network.define()

    def sums(params: Params, batch: DeviceBatch, key: Array | None) -> LossSums:
        logits = nnx.merge(model, params)(batch, key)
        return {"task": loss_sums(logits, packed_rows.as_task(batch))}

    return Objective(sums, lambda batch: {"task": jnp.sum(batch["weights"])})


@dataclass(frozen=True)
class Steps:
    """The functions of a run.

    Attributes:
        objective: The loss.
        optimizer: Any optax transformation, with its learning rate and `lr_scales`. It receives
            the number of the update as the extra argument ``step``.
        learning_rate: Update number -> learning rate, for the log.
        seed: Seed of dropout.
        lr_scales: Factors of the learning rate, broadcast against the parameters; 0 freezes a
            parameter and leaves its gradient out of the norm. None is 1 everywhere.
        accumulate: A, the number of parts of a batch that run one after the other.
        compute_dtype: Dtype of matrix multiplications.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Array], Array]
    seed: int
    lr_scales: Params | None = None
    accumulate: int = 1
    compute_dtype: str = "float32"

    @classmethod
    def of(cls, config: RunConfig) -> Steps:
        """Return the functions of a pre-training run."""
        return cls(
            objective=pretraining(config.model),
            optimizer=optimizer(config.optimizer, config.phases),
            learning_rate=schedule(config.optimizer, config.phases),
            seed=config.seed,
            accumulate=config.train.accumulate,
            compute_dtype=config.model.dtype,
        )

    def train(
        self, state: TrainState, batch: DeviceBatch, reduce: Reduce = unreduced
    ) -> tuple[TrainState, Metrics]:
        """Do one update.

        The loss is the sum of the means of all terms, each over the whole batch; in pre-training
        mean MLM + mean NSP cross-entropy. google-research/bert instead averages the MLM loss on
        each core.

        Args:
            state: Before the update.
            batch: Arrays as in `batch.FIELDS` and, if packed, `batch.PACKED_FIELDS`.
            reduce: Sums a tree over the devices.

        Returns:
            The state after the update, and float32 scalars for the log.
        """
        gradients, sums = self.gradients(state.params, state.step, batch, reduce)
        return self.update(state, *reduce((gradients, sums)))

    def gradients(
        self, params: Params, step: Array, batch: DeviceBatch, reduce: Reduce = unreduced
    ) -> tuple[Params, LossSums]:
        """Return this device's part of the gradients of the loss, and its sums; to be reduced.

        The parameters may be those of `layers_apart.apart`; the gradients have their form.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        # The one global division: by the counts of the whole batch, over all devices and parts.
        # Without a single label (masked language model alone) a term is 0.
        counts = reduce(self.objective.counts(batch))

        def loss(params: Params, batch: DeviceBatch, key: Array) -> tuple[Array, LossSums]:
            sums = self.objective.loss_sums(together(params), batch, key)
            terms = [term.loss / jnp.maximum(counts[name], 1) for name, term in sums.items()]
            return sum(terms, jnp.zeros(())), sums

        gradients_of_part = jax.grad(loss, has_aux=True)
        if self.accumulate == 1:
            return gradients_of_part(params, batch, key)

        def add(total: Any, part: tuple[DeviceBatch, Array]) -> tuple[Any, None]:
            rows, key = packed_rows.of_part(part[0], self.accumulate), part[1]
            return jax.tree.map(jnp.add, total, gradients_of_part(params, rows, key)), None

        # [B, …] -> [A, B / A, …]: every A-th row, so that the rows of a part do not depend on the
        # number of devices.
        parts = {
            name: jnp.moveaxis(x.reshape(-1, self.accumulate, *x.shape[1:]), 1, 0)
            for name, x in batch.items()
        }
        first = {name: x[0] for name, x in parts.items()}
        shapes = jax.eval_shape(gradients_of_part, params, first, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zeros, (parts, jax.random.split(key, self.accumulate)))[0]

    def update(
        self, state: TrainState, gradients: Params, sums: LossSums
    ) -> tuple[TrainState, Metrics]:
        """Apply the gradients of the whole batch.

        Args:
            state: Before the update.
            gradients: As large as the parameters.
            sums: Over the whole batch.
        """
        if self.lr_scales is not None:
            gradients = jax.tree.map(
                lambda g, scale: g * (scale > 0).astype(g.dtype), gradients, self.lr_scales
            )
        updates, opt_state = optax.with_extra_args_support(self.optimizer).update(
            gradients, state.opt_state, state.params, step=state.step
        )
        metrics = means(sums) | {
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": self.learning_rate(state.step.astype(jnp.float32)),
        }
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), metrics

    def evaluate(self, params: Params, batch: DeviceBatch, reduce: Reduce = unreduced) -> LossSums:
        """Return the sums over a batch, without dropout."""
        return reduce(self.objective.loss_sums(params, batch, None))

    def param_gather_dtype(self, params: Params) -> Any:
        """Return the dtype in which a device may send each parameter to another, losing nothing.

        The layers round their kernels to the compute dtype wherever they use them.
        """

        def dtype(path: tuple[jax.tree_util.DictKey, ...], leaf: Array) -> jnp.dtype:
            names = [entry.key for entry in path]
            rounded = "layers" in names and names[-1] == "kernel"
            return jnp.dtype(self.compute_dtype) if rounded else leaf.dtype

        return jax.tree_util.tree_map_with_path(dtype, params)


def means(sums: LossSums) -> Metrics:
    """Return mean losses and accuracies; 0 where the count is 0. "loss" adds up the losses."""
    counts = {name: term.count + (term.count == 0) for name, term in sums.items()}
    losses = {f"{name}_loss": term.loss / counts[name] for name, term in sums.items()}
    accuracies = {
        f"{name}_accuracy": term.correct / counts[name]
        for name, term in sums.items()
        if term.correct is not None
    }
    return {"loss": sum(losses.values()), **losses, **accuracies}  # type: ignore[dict-item]
