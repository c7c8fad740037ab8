"""Which tokens attend to which.

Dimensions as in `layers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

# Added to the scores of keys that may not be attended to; finite, so that a row without any key
# (an example of weight 0) gives numbers instead of NaN.
MASKED_SCORE = -1e9


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionMask:
    """Which tokens see which.

    Attributes:
        segment_ids: int [B, T]; 0 is padding, which no token sees.
        packed: Whether tokens see only those of their own sequence; else a row is one sequence.
        left_to_right: Whether they see only those before them, and themselves.
    """

    segment_ids: Array
    packed: bool = field(default=False, metadata={"static": True})
    left_to_right: bool = field(default=False, metadata={"static": True})

    def mask(self) -> Array:
        """bool [B, T or 1, S]."""
        ids = self.segment_ids
        mask = ids[:, None, :] > 0
        if self.packed:
            mask = mask & (ids[:, None, :] == ids[:, :, None])
        if self.left_to_right:
            T = ids.shape[1]
            mask = mask & jnp.tril(jnp.ones((1, T, T), bool))
        return mask
