"""Scaled dot-product attention with dropout, in XLA or as a TPU kernel; dimensions as in `layers`.

For the backward pass, both store only queries, keys and values (XLA also the probabilities, in
their dtype) and recompute the dropout masks. Both draw the same masks.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from bert_jax.config.accelerators import has_attention_kernel
from bert_jax.nn.attention_mask import MASKED_SCORE, AttentionMask
from bert_jax.nn.device_context import device_kind
from bert_jax.nn.dropout import seeded_dropout
from bert_jax.nn.matmul import einsum


def uses_kernel(kernel: str, length: int, width: int, head_size: int) -> bool:
    """Return true if attention over [B, length, width] runs in `attention_pallas`.

    Args:
        kernel: xla, pallas (if the sizes fit) or auto (if the devices fit, too).
        length: T.
        width: D.
        head_size: H.
    """
    if kernel == "xla" or (kernel == "auto" and not has_attention_kernel(device_kind())):
        return False
    # Imports a TPU compiler, which other devices do not need.
    from bert_jax.nn import attention_pallas

    return attention_pallas.fits(length, width, head_size)


def attend(
    query: Array,
    keys: Array,
    value: Array,
    attention_mask: AttentionMask,
    seeds: Array,
    rate: float,
) -> Array:
    """Compute softmax(query keys^T) value, with dropout on the probabilities.

    Args:
        query: [B, T, N, H], scaled.
        keys: [B, S, N, H].
        value: [B, S, N, H].
        attention_mask: Which keys count.
        seeds: int32 [2], from `dropout.seeds`; unused if `rate` is 0.
        rate: Dropout rate.

    Returns:
        [B, T, N, H], in the dtype of `query`.
    """
    return _attend(rate, query, keys, value, attention_mask.mask(), seeds)


def probabilities(query: Array, keys: Array, mask: Array) -> Array:
    """Compute softmax(query keys^T) over the keys that count: float32 [B, N, T, S].

    Args:
        query: [B, T, N, H], scaled.
        keys: [B, S, N, H].
        mask: bool [B, T or 1, S], from `AttentionMask.mask`.
    """
    # Scores leave the matrix unit in the compute dtype: in float32 they would be the largest arrays
    # of the whole step. The softmax itself is float32.
    scores = einsum("BTNH,BSNH->BNTS", query, keys)  # [B, N, T, S]
    scores = jnp.where(mask[:, None], scores.astype(jnp.float32), MASKED_SCORE)
    return jax.nn.softmax(scores, axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    rate: float, query: Array, keys: Array, value: Array, mask: Array, seeds: Array
) -> Array:
    return _forward(rate, query, keys, value, mask, seeds)[0]


Residuals = tuple[Array, ...]


def _forward(
    rate: float, query: Array, keys: Array, value: Array, mask: Array, seeds: Array
) -> tuple[Array, Residuals]:
    weights = probabilities(query, keys, mask).astype(value.dtype)  # [B, N, T, S]
    # [B, T, N, H]
    output = einsum("BNTS,BSNH->BTNH", seeded_dropout(weights, rate, seeds), value)
    return output, (query, keys, value, mask, seeds, weights, output)


def _backward(rate: float, residuals: Residuals, gradient: Array) -> tuple[Array | None, ...]:
    query, keys, value, mask, seeds, weights, output = residuals
    dropped_weights = seeded_dropout(weights, rate, seeds)  # [B, N, T, S]
    value_gradient = einsum("BNTS,BTNH->BSNH", dropped_weights, gradient)  # [B, S, N, H]
    dropped_gradient = einsum("BTNH,BSNH->BNTS", gradient, value)  # [B, N, T, S]
    weights_gradient = seeded_dropout(dropped_gradient, rate, seeds).astype(jnp.float32)
    # The softmax subtracts the sum over S of weights times their gradients: [B, N, T].
    delta = jnp.einsum("BTNH,BTNH->BNT", gradient, output, preferred_element_type=jnp.float32)
    scores_gradient = weights.astype(jnp.float32) * (weights_gradient - delta[..., None])
    # Only a row without any key has weights where the mask is false.
    scores_gradient = jnp.where(mask[:, None], scores_gradient, 0.0).astype(query.dtype)
    query_gradient = einsum("BNTS,BSNH->BTNH", scores_gradient, keys)  # [B, T, N, H]
    keys_gradient = einsum("BNTS,BTNH->BSNH", scores_gradient, query)  # [B, S, N, H]
    return query_gradient, keys_gradient, value_gradient, None, None


_attend.defvjp(_forward, _backward)
