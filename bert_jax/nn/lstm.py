"""A bidirectional LSTM in place of the transformer, for comparison with BERT.

Hochreiter and Schmidhuber 1997, with a forget gate; residual and LayerNorm as in BERT's own layers,
so that only the exchange of information between tokens differs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.nn.dropout import dropout
from bert_jax.nn.layers import Einsum, initializer, layer_norm

_FORGET = 1  # of the four gates: input, forget, cell, output


def sequence_starts(segment_ids: Array) -> Array:
    """Mark where a sequence, or padding, starts in each direction: bool [B, T, 2].

    Args:
        segment_ids: int [B, T]; 0 is padding.
    """
    change = segment_ids[:, 1:] != segment_ids[:, :-1]  # [B, T - 1]
    forward = jnp.pad(change, ((0, 0), (1, 0)), constant_values=True)
    backward = jnp.pad(change, ((0, 0), (0, 1)), constant_values=True)
    return jnp.stack([forward, backward], axis=-1)


class LstmLayer(nnx.Module):
    """Both directions with half of D each, side by side, then dropout, residual and LayerNorm.

    Further dimensions: R direction, G gate; H is D / 2.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create the gates."""
        D, H = config.hidden_size, config.hidden_size // 2
        self.input = Einsum(config, "BTD,DRGH->BTRGH", (D, 2, 4, H), (2, 4, H), rngs)
        # Starting with open forget gates trains better (Gers et al. 2000).
        self.input.bias = nnx.Param(jnp.zeros((2, 4, H)).at[:, _FORGET].set(1.0))
        self.recurrent = nnx.Param(initializer(config)(rngs.params(), (2, H, 4, H)))
        self.norm = layer_norm(config, rngs)
        self.rate = config.hidden_dropout

    def __call__(self, x: Array, starts: Array, key: Array | None) -> Array:
        """Map [B, T, D] to [B, T, D]; the state is reset at `starts`, bool [B, T, 2]."""
        B, _, D = x.shape
        gates = _flip_backward(self.input(x))  # [B, T, R, G, H]
        resets = _flip_backward(starts[..., None])  # [B, T, R, 1]
        recurrent = self.recurrent[...].astype(x.dtype)

        def step(state: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple, Array]:
            gates, reset = inputs  # [B, R, G, H], [B, R, 1]
            hidden, cell = (jnp.where(reset, 0.0, array) for array in state)  # [B, R, H]
            recurrence = jnp.einsum("BRH,RHGE->BRGE", hidden.astype(x.dtype), recurrent)
            input_gate, forget_gate, candidate, output_gate = jnp.moveaxis(
                (gates + recurrence).astype(jnp.float32), 2, 0
            )
            cell = jax.nn.sigmoid(forget_gate) * cell
            cell = cell + jax.nn.sigmoid(input_gate) * jnp.tanh(candidate)
            hidden = jax.nn.sigmoid(output_gate) * jnp.tanh(cell)
            return (hidden, cell), hidden.astype(x.dtype)

        zeros = jnp.zeros((B, 2, D // 2), jnp.float32)
        over_time = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), (gates, resets))
        _, hidden = jax.lax.scan(step, (zeros, zeros), over_time)  # [T, B, R, H]
        both = _flip_backward(jnp.moveaxis(hidden, 0, 1)).reshape(x.shape)  # [B, T, D]
        return self.norm(x + dropout(both, self.rate, key)).astype(x.dtype)


def _flip_backward(x: Array) -> Array:
    """Reverse the second direction of `x`, [B, T, R, …], in time."""
    return jnp.stack([x[:, :, 0], x[:, ::-1, 1]], axis=2)
