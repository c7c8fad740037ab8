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
        correct: How many were right; None where there is no right and wrong.
        count: How many there were.
    """

    loss: Array
    correct: Array | None
    count: Array


def cross_entropy(logits: Array, targets: Array, weights: Array) -> MetricSums:
    """Weighted cross-entropy of integer targets.

    Args:
        logits: float32 [..., C].
        targets: int [...].
        weights: float32 [...]; 0 leaves a prediction out.
    """
    # A masked sum, because the gradient of a gather over the classes is a slow scatter.
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    at_target = jnp.sum(jnp.where(classes == targets[..., None], logits, 0.0), axis=-1)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    powers = jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
    loss = jnp.log(powers) + largest - at_target
    # Of equal logits the first wins: with all-zero ones not everything is right. Not an argmax,
    # which is slow on processors and another pass over the logits elsewhere; NaN is never right.
    beaten = logits < at_target[..., None]
    equal = (logits == at_target[..., None]) & (classes >= targets[..., None])
    correct = jnp.all(beaten | equal, axis=-1)
    return MetricSums(
        loss=jnp.sum(loss * weights),
        correct=jnp.sum(correct * weights),
        count=jnp.sum(weights),
    )
