"""Losses and accuracies as sums and counts, so that they add up over devices and batches."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tally:
    """Sums over predictions; each a float32 scalar.

    Attributes:
        loss: Sum of the cross-entropies, in nats.
        correct: How many were right; None where there is no right and wrong.
        count: How many there were.
    """

    loss: Array
    correct: Array | None
    count: Array


def cross_entropy(logits: Array, targets: Array, weights: Array) -> Tally:
    """Weighted cross-entropy of integer targets.

    Args:
        logits: float32 [..., C].
        targets: int [...].
        weights: float32 [...]; 0 leaves a prediction out.
    """
    # A masked sum, because the gradient of a gather over the classes is a slow scatter.
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    at_target = jnp.sum(jnp.where(classes == targets[..., None], logits, 0.0), axis=-1)
    largest, place = _maximum(jax.lax.stop_gradient(logits), classes)
    powers = jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
    loss = jnp.log(powers) + largest - at_target
    # By its place, not "no logit is larger": with ties (all-zero logits) that would count as right.
    correct = place == targets
    return Tally(
        loss=jnp.sum(loss * weights),
        correct=jnp.sum(correct * weights),
        count=jnp.sum(weights),
    )


def _maximum(logits: Array, classes: Array) -> tuple[Array, Array]:
    """The largest of the C logits, and the first class that has it, in one pass over them."""

    def larger(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        # A NaN counts as the largest, so that it is not lost.
        first = (a[0] > b[0]) | (a[0] != a[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        return jnp.where(first, a[0], b[0]), jnp.where(first, a[1], b[1])

    initial = (jnp.array(-jnp.inf, logits.dtype), jnp.array(0, classes.dtype))
    return jax.lax.reduce((logits, classes), initial, larger, (logits.ndim - 1,))
