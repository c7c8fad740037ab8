"""Scaled dot product attention with dropout, in XLA or as a kernel for TPUs.

Both keep only queries, keys and values (XLA also the probabilities, in the dtype of these) for the
backward pass; masks of dropout are computed again. They draw the same masks.

Dimensions as in `layers`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from bert_jax.config.accelerators import has_attention_kernel
from bert_jax.nn.attention_mask import MASKED_SCORE, AttentionMask
from bert_jax.nn.dropout import dropped
from bert_jax.nn.hardware import device_kind
from bert_jax.nn.matmul import einsum


def takes_kernel(kernel: str, length: int, width: int, head_size: int) -> bool:
    """Whether attention over [B, length, width] runs as the kernel of `attention_tpu`.

    Args:
        kernel: xla; pallas, where the sizes allow it; or auto: where the devices are for it, too.
        length: T.
        width: D.
        head_size: H.
    """
    if kernel == "xla" or (kernel == "auto" and not has_attention_kernel(device_kind())):
        return False
    # Brings a compiler for TPUs along, which others need not load.
    from bert_jax.nn import attention_pallas

    return attention_pallas.fits(length, width, head_size)


def attend(
    query: Array,
    keys: Array,
    value: Array,
    visible: AttentionMask,
    seeds: Array,
    rate: float,
) -> Array:
    """softmax(query keys^T) value, with dropout of the probabilities.

    Args:
        query: [B, T, N, H], scaled.
        keys: [B, S, N, H].
        value: [B, S, N, H].
        visible: Which keys count.
        seeds: int32 [2], of `dropout.seeds`.
        rate: Of dropout; without it the seeds do not matter.

    Returns:
        [B, T, N, H], in the dtype of `query`.
    """
    return _attend(rate, query, keys, value, visible.mask(), seeds)


def probabilities(query: Array, keys: Array, mask: Array) -> Array:
    """softmax(query keys^T) over the keys that count: float32 [B, N, T, S].

    Args:
        query: [B, T, N, H], scaled.
        keys: [B, S, N, H].
        mask: bool [B, T or 1, S]; see `AttentionMask.mask`.
    """
    # The scores leave the matrix unit in the dtype of the products: in float32 they would be the
    # largest arrays of the whole step. The softmax itself is float32.
    scores = einsum("BTNH,BSNH->BNTS", query, keys)
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
    weights = probabilities(query, keys, mask).astype(value.dtype)
    output = einsum("BNTS,BSNH->BTNH", dropped(weights, rate, seeds), value)
    return output, (query, keys, value, mask, seeds, weights, output)


def _backward(rate: float, residuals: Residuals, gradient: Array) -> tuple[Array | None, ...]:
    query, keys, value, mask, seeds, weights, output = residuals
    of_value = einsum("BNTS,BTNH->BSNH", dropped(weights, rate, seeds), gradient)
    of_dropped = einsum("BTNH,BSNH->BNTS", gradient, value)
    of_weights = dropped(of_dropped, rate, seeds).astype(jnp.float32)
    # What the softmax takes off: the sum of weights times their gradients, along S.
    pull = jnp.einsum("BTNH,BTNH->BNT", gradient, output, preferred_element_type=jnp.float32)
    of_scores = weights.astype(jnp.float32) * (of_weights - pull[..., None])
    # Only a row without any key has weights where the mask is false.
    of_scores = jnp.where(mask[:, None], of_scores, 0.0).astype(query.dtype)
    of_query = einsum("BNTS,BSNH->BTNH", of_scores, keys)
    of_keys = einsum("BNTS,BTNH->BSNH", of_scores, query)
    return of_query, of_keys, of_value, None, None


_attend.defvjp(_forward, _backward)
