"""Masks of attention; dimensions as in `layers`."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

# The score of keys that are masked out. Finite, so that a row without any key (an example of weight
# 0) yields numbers instead of NaN.
MASKED_SCORE = -1e9


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionMask:
    """Which tokens attend to which.

    Attributes:
        segment_ids: int [B, T]; 0 is padding, to which no token attends.
        packed: Rows have several sequences, and tokens attend only to those of their own.
        left_to_right: Tokens attend only to themselves and to those before them.
    """

    segment_ids: Array
    packed: bool = field(default=False, metadata={"static": True})
    left_to_right: bool = field(default=False, metadata={"static": True})

    def mask(self) -> Array:
        """Return the mask as an array, bool [B, T or 1, S]."""
        ids = self.segment_ids
        mask = ids[:, None, :] > 0  # [B, 1, S]
        if self.packed:
            mask = mask & (ids[:, None, :] == ids[:, :, None])  # [B, T, S]
        if self.left_to_right:
            T = ids.shape[1]
            mask = mask & jnp.tril(jnp.ones((1, T, T), bool))  # [B, T, S]
        return mask
