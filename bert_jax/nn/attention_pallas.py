"""Attention as one TPU kernel: scores and probabilities never leave the chip's fast memory.

A block is all tokens of some rows and 128 of the D columns, one or more heads. The whole S x T
square of a head is held at once, which BERT's lengths allow (1 MiB in float32 at 512).
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
from bert_jax.nn.dropout import kept
from bert_jax.nn.hardware import device_kind, first_row

LANES = 128  # columns that the chip computes side by side
LONGEST = 512  # T; beyond it the squares of a block would not fit into fast memory


def fits(length: int, width: int, head_size: int) -> bool:
    """Whether the kernel takes arrays [B, length, width]."""
    if length > LONGEST or length % LANES or width % LANES:
        return False
    return LANES % head_size == 0 or head_size % LANES == 0


@dataclass(frozen=True)
class _Plan:
    """Static: rows of a block R, T, N heads, H; whether packed, left to right, interpreted."""

    rows: int
    length: int
    heads: int
    head_size: int
    rate: float
    packed: bool
    left_to_right: bool
    interpret: bool

    @property
    def width(self) -> int:
        """Columns of a block."""
        return max(LANES, self.head_size)


def attend_on_tpu(
    query: Array,
    keys: Array,
    value: Array,
    visible: AttentionMask,
    head_size: int,
    seeds: Array,
    rate: float,
) -> Array:
    """`attention.attend` with the N heads side by side in the last axis: [B, T, D].

    With N and H as axes a TPU would pad H to 128, or move every array before and after the kernel.
    `fits` says for which sizes. Not on a TPU it is interpreted, which is slow.
    """
    B, T, D = query.shape
    rows = next(r for r in (max(1, LONGEST // T), 2, 1) if B % r == 0)
    interpret = not device_kind().startswith("TPU")
    plan = _Plan(
        rows, T, D // head_size, head_size, rate, visible.packed, visible.left_to_right, interpret
    )
    ids = visible.segment_ids.astype(jnp.int32)
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
    found = _run(plan, _backward_kernel, 3, 10, scalars, ids, query, keys, value, gradient)
    return (*found, None, None)


_attend.defvjp(_forward, _backward)


def _run(
    plan: _Plan,
    kernel: Any,
    outputs: int,
    products: int,
    scalars: Array,
    ids: Array,
    *arrays: Array,
) -> list[Array]:
    """`kernel` over all blocks; `products` is its operations per query, key and column."""
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
            flops=products * B * T * T * D,
            bytes_accessed=size * (len(arrays) + outputs),
            transcendentals=B * T * T * plan.heads,
        ),
        interpret=plan.interpret,
    )(scalars, ids[:, None, :], ids[:, :, None], *arrays)


def _forward_kernel(plan: _Plan, scalars: Any, *refs: Any) -> None:
    row_ids, column_ids, query, keys, value, out = refs
    for row, head, columns in _heads(plan):
        weights, _ = _weights(plan, row, row_ids, column_ids, query, keys, columns)
        keep = _kept(plan, scalars, row, head)
        dropped = _dropped(plan, weights, keep).astype(value.dtype)
        found = _product(dropped, value[row, :, columns], 1, 0)
        out[row, :, columns] = found.astype(out.dtype)


def _backward_kernel(plan: _Plan, scalars: Any, *refs: Any) -> None:
    row_ids, column_ids, query, keys, value, gradient, of_query, of_keys, of_value = refs
    for row, head, columns in _heads(plan):
        weights, mask = _weights(plan, row, row_ids, column_ids, query, keys, columns)
        keep = _kept(plan, scalars, row, head)
        given = gradient[row, :, columns]
        dropped = _dropped(plan, weights, keep).astype(value.dtype)
        of_value[row, :, columns] = _product(dropped, given, 0, 0).astype(of_value.dtype)
        of_weights = _dropped(plan, _product(given, value[row, :, columns], 1, 1), keep)
        pull = jnp.sum(weights * of_weights, axis=-1, keepdims=True)
        # Only a row without any key has weights where the mask is false.
        of_scores = jnp.where(mask, weights * (of_weights - pull), 0.0).astype(query.dtype)
        of_query[row, :, columns] = _product(of_scores, keys[row, :, columns], 1, 0).astype(
            of_query.dtype
        )
        of_keys[row, :, columns] = _product(of_scores, query[row, :, columns], 0, 0).astype(
            of_keys.dtype
        )


def _heads(plan: _Plan) -> list[tuple[int, int, slice]]:
    """Row, head and columns within a block, of every head in it."""
    H = plan.head_size
    return [
        (row, head, slice(head * H, (head + 1) * H))
        for row in range(plan.rows)
        for head in range(plan.width // H)
    ]


def _product(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    """float32 [X, Y]: summed over these axes."""
    return jax.lax.dot_general(
        a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32
    )


def _weights(
    plan: _Plan, row: int, row_ids: Any, column_ids: Any, query: Any, keys: Any, columns: slice
) -> tuple[Array, Array]:
    """The softmax, float32 [T, S], and which keys count, bool."""
    scores = _product(query[row, :, columns], keys[row, :, columns], 1, 1)
    mask = row_ids[row] > 0  # [1, S]
    if plan.packed:
        mask = mask & (row_ids[row] == column_ids[row])
    if plan.left_to_right:
        place = [jax.lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (0, 1)]
        mask = mask & (place[1] <= place[0])
    scores = jnp.where(mask, scores, MASKED_SCORE)
    powers = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return powers / jnp.sum(powers, axis=-1, keepdims=True), mask


def _kept(plan: _Plan, scalars: Any, row: int, head: int) -> Array | None:
    if plan.rate == 0.0:
        return None
    T, N = plan.length, plan.heads
    shape = (T, T)
    row_number = scalars[2] + pl.program_id(0) * plan.rows + row
    head_number = pl.program_id(1) * (plan.width // plan.head_size) + head
    base = (row_number * N + head_number) * np.int32(T * T)
    place = jax.lax.broadcasted_iota(jnp.int32, shape, 0) * np.int32(T)
    place = base + place + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return kept(place, scalars[0], scalars[1], plan.rate)


def _dropped(plan: _Plan, x: Array, keep: Array | None) -> Array:
    return x if keep is None else jnp.where(keep, x / (1.0 - plan.rate), 0.0)
