"""Rows of a task that share a row of the network.

A task makes one row per sequence, S rows of T tokens, and its targets in that layout. A packed
batch puts several of these into one of B rows of T tokens, and says where each one is:

    token_ids, token_type_ids, segment_ids, position_ids: as in `training.batch`, int32 [B, T]
    sequence_starts: index of the first token in the flat [B x T], int32 [S]
    sequence_lengths: tokens, int32 [S]; 0 for a row that only fills up the batch

Multiple choice has one sequence per choice: [S, C]. The network returns logits in the layout of the
task, so that the objective of a task is the same for both kinds of batches.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from bert_jax.nn.attention_mask import MASKED_SCORE

STARTS, LENGTHS = "sequence_starts", "sequence_lengths"


def is_packed(batch: Mapping[str, Array]) -> bool:
    """Return whether several rows of a task share a row of the batch."""
    return STARTS in batch


def first_tokens(batch: Mapping[str, Array]) -> Array:
    """Return the flat index of every [CLS], int [S x K]; K is 1 without ``cls_positions``."""
    starts = batch[STARTS].reshape(-1, 1)  # [S, 1]
    return (starts + batch.get("cls_positions", jnp.zeros_like(starts))).reshape(-1)


def of_sequences(x: Array, batch: Mapping[str, Array]) -> Array:
    """Return values of tokens, [B, T, C], in the layout of the task, [S, T, C].

    Where a sequence has no token, the value is that of a masked score: no probability.
    """
    index = batch[STARTS][:, None] + jnp.arange(x.shape[1])[None]  # [S, T]
    values = x.reshape(-1, x.shape[-1]).at[index].get(mode="clip")  # [S, T, C]
    return jnp.where(_inside(batch, x.shape[1])[..., None], values, MASKED_SCORE)


def as_task(batch: Mapping[str, Array]) -> dict[str, Array]:
    """Return a batch with the ``segment_ids`` of the task, 1 on tokens: [S, T] or [S, C, T]."""
    if not is_packed(batch):
        return dict(batch)
    inside = _inside(batch, batch["token_ids"].shape[-1])
    return {**batch, "segment_ids": inside.astype(jnp.int32)}


def of_part(batch: dict[str, Array], parts: int) -> dict[str, Array]:
    """Return every `parts`-th row of a batch, after a selection, with the indices of that part.

    Row r of the batch is row r // `parts` of its part.
    """
    if not is_packed(batch):
        return batch
    T = batch["token_ids"].shape[-1]
    starts = batch[STARTS]
    return {**batch, STARTS: starts // (parts * T) * T + starts % T}


def _inside(batch: Mapping[str, Array], length: int) -> Array:
    """Return which positions of the rows of the task have tokens, bool [S, T] or [S, C, T]."""
    lengths = batch[LENGTHS][..., None]
    return (
        jax.lax.broadcasted_iota(jnp.int32, (*batch[LENGTHS].shape, length), lengths.ndim - 1)
        < lengths
    )
