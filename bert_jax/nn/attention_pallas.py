"""Attention as one TPU kernel: scores and probabilities never leave the chip's fast memory.

A block is all tokens of some rows and 128 of the D columns: one or more heads. The kernel computes
the whole S x T square of a head at once, which BERT's lengths allow (1 MiB in float32 at 512).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bert_jax.nn.attention_mask import MASKED_SCORE, AttentionMask
from bert_jax.nn.device_context import device_kind, first_row
from bert_jax.nn.dropout import keep_mask

LANES = 128  # columns that the chip processes in parallel
MAX_LENGTH = 512  # of T; the squares of longer blocks would not fit into fast memory


def fits(length: int, width: int, head_size: int) -> bool:
    """Return true if the kernel supports arrays [B, length, width]."""
    if length > MAX_LENGTH or length % LANES or width % LANES:
        return False
    return LANES % head_size == 0 or head_size % LANES == 0


@dataclass(frozen=True)
class _Plan:
    rows: int  # R, of a block
    length: int  # T
    heads: int  # N
    head_size: int  # H
    rate: float
    packed: bool
    left_to_right: bool
    interpret: bool

    @property
    def width(self) -> int:
        """Number of columns of a block."""
        return max(LANES, self.head_size)


def attend_on_tpu(
    query: Array,
    keys: Array,
    value: Array,
    attention_mask: AttentionMask,
    head_size: int,
    seeds: Array,
    rate: float,
) -> Array:
    """Compute `attention.attend` with the N heads side by side in the last axis: [B, T, D].

    With N and H as axes a TPU would pad H to 128, or move every array before and after the kernel.
    `fits` returns which sizes are supported. On other devices the kernel is interpreted: slow.
    """
    B, T, D = query.shape
    rows = next(r for r in (max(1, MAX_LENGTH // T), 2, 1) if B % r == 0)
    interpret = not device_kind().startswith("TPU")
    packed, left_to_right = attention_mask.packed, attention_mask.left_to_right
    plan = _Plan(rows, T, D // head_size, head_size, rate, packed, left_to_right, interpret)
    ids = attention_mask.segment_ids.astype(jnp.int32)
    return _attend(plan, query, keys, value, ids, jnp.append(seeds, first_row(B)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: _Plan, query: Array, keys: Array, value: Array, ids: Array, scalars: Array
) -> Array:
    return _forward(plan, query, keys, value, ids, scalars)[0]


def _forward(
    plan: _Plan, query: Array, keys: Array, value: Array, ids: Array, scalars: Array
) -> tuple[Array, tuple[Array, ...]]:
    (output,) = _run(plan, _forward_kernel, 1, 4, scalars, ids, query, keys, value)
    return output, (query, keys, value, ids, scalars)


def _backward(
    plan: _Plan, residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array | None, ...]:
    query, keys, value, ids, scalars = residuals
    arrays = (query, keys, value, gradient)
    return (*_run(plan, _backward_kernel, 3, 10, scalars, ids, *arrays), None, None)


_attend.defvjp(_forward, _backward)


def _run(
    plan: _Plan,
    kernel: Any,
    outputs: int,
    flops_per_score: int,
    scalars: Array,
    ids: Array,
    *arrays: Array,
) -> list[Array]:
    """Run `kernel` on all blocks; `flops_per_score` is per query, key and column."""
    B, T, D = arrays[0].shape
    R, width = plan.rows, plan.width
    block = pl.BlockSpec((R, T, width), lambda row, column, _: (row, 0, column))
    as_row = pl.BlockSpec((R, 1, T), lambda row, column, _: (row, 0, 0))
    as_column = pl.BlockSpec((R, T, 1), lambda row, column, _: (row, 0, 0))
    size = arrays[0].size * arrays[0].dtype.itemsize
    return pl.pallas_call(
        partial(kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B // R, D // width),
            in_specs=[as_row, as_column, *[block] * len(arrays)],
            out_specs=[block] * outputs,
        ),
        out_shape=[jax.ShapeDtypeStruct((B, T, D), arrays[0].dtype)] * outputs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=flops_per_score * B * T * T * D,
            bytes_accessed=size * (len(arrays) + outputs),
            transcendentals=B * T * T * plan.heads,
        ),
        interpret=plan.interpret,
    )(scalars, ids[:, None, :], ids[:, :, None], *arrays)


def _forward_kernel(plan: _Plan, scalars: Any, *refs: Any) -> None:
    row_ids, column_ids, query, keys, value, out = refs
    for row, head, columns in _heads(plan):
        weights, _ = _weights(plan, row, row_ids, column_ids, query, keys, columns)
        keep = _keep_mask(plan, scalars, row, head)
        dropped_weights = _dropout(plan, weights, keep).astype(value.dtype)
        output = _matmul(dropped_weights, value[row, :, columns], 1, 0)
        out[row, :, columns] = output.astype(out.dtype)


def _backward_kernel(plan: _Plan, scalars: Any, *refs: Any) -> None:
    row_ids, column_ids, query, keys, value, gradient, *out = refs
    query_gradient, keys_gradient, value_gradient = out
    for row, head, columns in _heads(plan):
        weights, mask = _weights(plan, row, row_ids, column_ids, query, keys, columns)
        keep = _keep_mask(plan, scalars, row, head)
        output_gradient = gradient[row, :, columns]
        dropped_weights = _dropout(plan, weights, keep).astype(value.dtype)
        value_gradient[row, :, columns] = _matmul(dropped_weights, output_gradient, 0, 0).astype(
            value_gradient.dtype
        )
        dropped_gradient = _matmul(output_gradient, value[row, :, columns], 1, 1)
        weights_gradient = _dropout(plan, dropped_gradient, keep)
        # The softmax subtracts the sum over S of weights times their gradients.
        delta = jnp.sum(weights * weights_gradient, axis=-1, keepdims=True)
        # Only a row without any key has weights where the mask is false.
        scores_gradient = jnp.where(mask, weights * (weights_gradient - delta), 0.0)
        scores_gradient = scores_gradient.astype(query.dtype)
        query_gradient[row, :, columns] = _matmul(
            scores_gradient, keys[row, :, columns], 1, 0
        ).astype(query_gradient.dtype)
        keys_gradient[row, :, columns] = _matmul(
            scores_gradient, query[row, :, columns], 0, 0
        ).astype(keys_gradient.dtype)


def _heads(plan: _Plan) -> list[tuple[int, int, slice]]:
    """Return row, head and columns within a block, for every head in it."""
    H = plan.head_size
    return [
        (row, head, slice(head * H, (head + 1) * H))
        for row in range(plan.rows)
        for head in range(plan.width // H)
    ]


def _matmul(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    """Contract these axes of two matrices, to float32."""
    return jax.lax.dot_general(
        a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32
    )


def _weights(
    plan: _Plan, row: int, row_ids: Any, column_ids: Any, query: Any, keys: Any, columns: slice
) -> tuple[Array, Array]:
    """Return the softmax, float32 [T, S], and which keys count, bool."""
    scores = _matmul(query[row, :, columns], keys[row, :, columns], 1, 1)
    mask = row_ids[row] > 0  # [1, S]
    if plan.packed:
        mask = mask & (row_ids[row] == column_ids[row])
    if plan.left_to_right:
        position = [jax.lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (0, 1)]
        mask = mask & (position[1] <= position[0])
    scores = jnp.where(mask, scores, MASKED_SCORE)
    powers = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return powers / jnp.sum(powers, axis=-1, keepdims=True), mask


def _keep_mask(plan: _Plan, scalars: Any, row: int, head: int) -> Array | None:
    if plan.rate == 0.0:
        return None
    T, N = plan.length, plan.heads
    shape = (T, T)
    row_number = scalars[2] + pl.program_id(0) * plan.rows + row
    head_number = pl.program_id(1) * (plan.width // plan.head_size) + head
    base = (row_number * N + head_number) * np.int32(T * T)
    index = jax.lax.broadcasted_iota(jnp.int32, shape, 0) * np.int32(T)
    index = base + index + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return keep_mask(index, scalars[0], scalars[1], plan.rate)


def _dropout(plan: _Plan, x: Array, keep: Array | None) -> Array:
    return x if keep is None else jnp.where(keep, x / (1.0 - plan.rate), 0.0)
