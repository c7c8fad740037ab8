"""Losses and accuracies as sums and counts, so that they add up over devices and batches."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MetricSums:
    """Sums over predictions; each a float32 scalar.

    Attributes:
        loss: Sum of the cross-entropies, in nats.
        correct: Number of correct predictions; None for losses without a notion of correct.
        count: Number of predictions.
    """

    loss: Array
    correct: Array | None
    count: Array


def cross_entropy(logits: Array, targets: Array, weights: Array) -> MetricSums:
    """Compute the weighted cross-entropy of integer targets.

    Args:
        logits: float32 [..., C].
        targets: int [...].
        weights: float32 [...]; 0 excludes a prediction.
    """
    # A masked sum, because the gradient of a gather over the classes is a slow scatter.
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    target_logit = jnp.sum(jnp.where(classes == targets[..., None], logits, 0.0), axis=-1)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    exponentials = jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
    loss = jnp.log(exponentials) + largest - target_logit
    # Among equal logits the first wins, so all-zero logits are not all correct. An argmax would be
    # slow on CPUs and another pass over the logits elsewhere; NaN is never correct.
    lower = logits < target_logit[..., None]
    equal = (logits == target_logit[..., None]) & (classes >= targets[..., None])
    correct = jnp.all(lower | equal, axis=-1)
    return MetricSums(
        loss=jnp.sum(loss * weights),
        correct=jnp.sum(correct * weights),
        count=jnp.sum(weights),
    )


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
    """Return the cross-entropy of independent yes-or-no predictions, elementwise, in nats.

    Args:
        logits: float32, of yes.
        targets: 0 or 1, of the same shape.
    """
    return jax.nn.softplus(logits) - logits * targets
