"""A bidirectional LSTM in place of the transformer: what BERT is compared with.

Hochreiter and Schmidhuber 1997, with a forget gate; residual and LayerNorm as in BERT's own layers,
so that only the way in which tokens exchange information differs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from bert_jax.config.run import ModelConfig
from bert_jax.nn.dropout import dropout
from bert_jax.nn.layers import Einsum, initializer, layer_norm

_FORGET = 1  # of the four gates: input, forget, cell, output


def begins(segment_ids: Array) -> Array:
    """Whether a sequence, or padding, begins there in each direction: bool [B, T, 2].

    Args:
        segment_ids: int [B, T]; 0 is padding.
    """
    change = segment_ids[:, 1:] != segment_ids[:, :-1]
    forward = jnp.pad(change, ((0, 0), (1, 0)), constant_values=True)
    backward = jnp.pad(change, ((0, 0), (0, 1)), constant_values=True)
    return jnp.stack([forward, backward], axis=-1)


class LstmLayer(nnx.Module):
    """Both directions with half of D each, side by side, then dropout, residual and LayerNorm."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Creates the gates; R is the direction, G the gate, H = D / 2."""
        D, H = config.hidden_size, config.hidden_size // 2
        self.input = Einsum(config, "BTD,DRGH->BTRGH", (D, 2, 4, H), (2, 4, H), rngs)
        # Remembering is the better start (Gers et al. 2000).
        self.input.bias = nnx.Param(jnp.zeros((2, 4, H)).at[:, _FORGET].set(1.0))
        self.recurrent = nnx.Param(initializer(config)(rngs.params(), (2, H, 4, H)))
        self.norm = layer_norm(config, rngs)
        self.rate = config.hidden_dropout

    def __call__(self, x: Array, begins: Array, key: Array | None) -> Array:
        """Maps [B, T, D] to [B, T, D]; the state is forgotten where begins, bool [B, T, 2]."""
        B, _, D = x.shape
        gates = _turned(self.input(x))
        fresh = _turned(begins[..., None])
        recurrent = self.recurrent[...].astype(x.dtype)

        def step(state: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple, Array]:
            hidden, cell = (jnp.where(now[1], 0.0, part) for part in state)
            past = jnp.einsum("BRH,RHGE->BRGE", hidden.astype(x.dtype), recurrent)
            enter, forget, value, leave = jnp.moveaxis((now[0] + past).astype(jnp.float32), 2, 0)
            cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(value)
            hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
            return (hidden, cell), hidden.astype(x.dtype)

        zeros = jnp.zeros((B, 2, D // 2), jnp.float32)
        over_time = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (gates, fresh))
        _, hidden = jax.lax.scan(step, (zeros, zeros), over_time)
        both = _turned(jnp.moveaxis(hidden, 0, 1)).reshape(x.shape)
        return self.norm(x + dropout(both, self.rate, key)).astype(x.dtype)


def _turned(x: Array) -> Array:
    """`x` [B, T, R, …] with the second direction reversed in time."""
    return jnp.stack([x[:, :, 0], x[:, ::-1, 1]], axis=2)
