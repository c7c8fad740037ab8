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
    # Among equal logits the first wins, so all-zero logits are not all correct; NaN is never
    # correct. Counted as a float32 sum, in the pass of the exponentials: an argmax would be slow on
    # CPUs and, as a reduction of another kind, one more pass over the logits on TPUs.
    earlier = (logits == largest[..., None]) & (classes < targets[..., None])
    correct = (target_logit == largest) & (jnp.sum(earlier, axis=-1, dtype=jnp.float32) == 0)
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
