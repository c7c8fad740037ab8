"""BERT with a task head: fine-tuned whole, in part, or as a source of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from bert_jax.config import ModelConfig
from bert_jax.errors import BadInputError
from bert_jax.layers import dense, dropout, split
from bert_jax.losses import Tally
from bert_jax.lstm import LstmLayer, begins
from bert_jax.model import Bert
from bert_jax.state import Params
from bert_jax.steps import DeviceBatch, Sums

# Name -> which of the L + 1 hidden states (0 is the embeddings, -1 the last layer), and how several
# become one (paper, section 5.3).
FEATURES: dict[str, tuple[tuple[int, ...] | None, str]] = {
    "last": ((-1,), "sum"),
    "second-to-last": ((-2,), "sum"),
    "embeddings": ((0,), "sum"),
    "sum-last-4": ((-4, -3, -2, -1), "sum"),
    "concat-last-4": ((-4, -3, -2, -1), "concat"),
    "weighted-last-4": ((-4, -3, -2, -1), "weighted"),
    "weighted-all": (None, "weighted"),
}


@dataclass(frozen=True)
class HeadConfig:
    """What stands on the encoder, and what of it all is trained.

    Args:
        kind: linear, or bilstm: a bidirectional LSTM before the linear map (tokens only).
        features: Hidden states that the head sees: last, second-to-last, embeddings, sum-last-4,
            concat-last-4, weighted-last-4 or weighted-all (learned weights).
        lstm_layers: Of a bilstm head.
        dropout: Before the linear map.
        trainable: all, head, or last-N: the head and the N last layers.
        layer_decay: Learning rate of a layer relative to that of the layer above it.
    """

    kind: Literal["linear", "bilstm"] = "linear"
    features: str = "last"
    lstm_layers: int = 2
    dropout: float = 0.1
    trainable: str = "all"
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.features not in FEATURES:
            raise BadInputError(f"head.features {self.features!r}: choose {', '.join(FEATURES)}")
        if not 0 < self.layer_decay <= 1:
            raise BadInputError(f"head.layer_decay must be in (0, 1], not {self.layer_decay}")
        if not 0 <= self.dropout < 1:
            raise BadInputError(f"head.dropout must be in [0, 1), not {self.dropout}")
        if self.lstm_layers < 1:
            raise BadInputError(f"head.lstm_layers must be at least 1, not {self.lstm_layers}")
        self.frozen_layers(1)

    def frozen_layers(self, layers: int) -> int:
        """How many of the first `layers` are not trained; below them neither are the embeddings.

        Raises:
            BadInputError: ``trainable`` is not one of its values.
        """
        if self.trainable == "all":
            return 0
        if self.trainable == "head":
            return layers
        number = self.trainable.removeprefix("last-")
        if number == self.trainable or not number.isdecimal() or int(number) < 1:
            raise BadInputError(
                f"head.trainable {self.trainable!r}: choose all, head, or last-N such as last-2"
            )
        return max(0, layers - int(number))


class TaskHead(nnx.Module):
    """An affine map to C outputs, with dropout; before it, if asked for, a BiLSTM."""

    def __init__(self, config: ModelConfig, head: HeadConfig, outputs: int, rngs: nnx.Rngs) -> None:
        """Creates the head for features of the width that `head` asks for."""
        which, how = FEATURES[head.features]
        count = config.layers + 1 if which is None else len(which)
        D = config.hidden_size * (count if how == "concat" else 1)
        if how == "weighted":
            self.mixture = nnx.Param(jnp.zeros(count))
        if head.kind == "bilstm":
            wide = _widened(config, D)
            self.lstm = [LstmLayer(wide, rngs) for _ in range(head.lstm_layers)]
        linear = dense(config, "BTD,DC->BTC", (D, outputs), (outputs,), rngs)
        self.kernel, self.bias = linear.kernel, linear.bias
        self.rate = head.dropout
        self.which, self.how, self.is_lstm = which, how, head.kind == "bilstm"

    def mixed(self, states: list[Array]) -> Array:
        """The features, [B, T, D], of all hidden states, embeddings first."""
        chosen = states if self.which is None else [states[i] for i in self.which]
        if self.how == "concat":
            return jnp.concatenate(chosen, axis=-1)
        if self.how == "weighted":
            weights = jax.nn.softmax(self.mixture[...])
            return sum(
                (w.astype(x.dtype) * x for w, x in zip(weights, chosen, strict=True)),
                jnp.zeros_like(chosen[0]),
            )
        return sum(chosen[1:], chosen[0])

    def __call__(self, x: Array, sequence_ids: Array | None, key: Array | None) -> Array:
        """float32 [B, T, C] from [B, T, D]; the LSTM needs to know where sequences begin."""
        if self.is_lstm and sequence_ids is not None:
            edges = begins(sequence_ids)
            for layer in self.lstm:
                x = layer(x, edges, None)
        x = dropout(x, self.rate, key)
        scores = jnp.einsum("BTD,DC->BTC", x, self.kernel[...].astype(x.dtype))
        return scores.astype(jnp.float32) + self.bias[...].astype(jnp.float32)[None, None]


def _widened(config: ModelConfig, width: int) -> ModelConfig:
    return replace(config, hidden_size=width)
