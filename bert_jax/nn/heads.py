"""The heads of pre-training; dimensions as in `layers`."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.nn.layers import Einsum, gelu, layer_norm
from bert_jax.nn.matmul import scores


class MaskedLanguageHead(nnx.Module):
    """Score every token of the vocabulary with the (tied) token embedding and a bias."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create the transform and the output bias."""
        D = config.hidden_size
        self.transform = Einsum(config, "BPD,DE->BPE", (D, D), (D,), rngs)
        self.norm = layer_norm(config, rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))
        self.activation = gelu(config)

    def __call__(self, hidden: Array, embedding: Array) -> Array:
        """Return float32 logits [B, P, V] from hidden [B, P, D] and the token embedding [V, D]."""
        x = self.norm(self.activation(self.transform(hidden))).astype(hidden.dtype)  # [B, P, D]
        return scores("BPD,VD->BPV", x, embedding) + self.bias[...][None, None]


class NextSentenceHead(nnx.Module):
    """Two classes from the pooled vector: 0 = B follows A, 1 = B is from elsewhere."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create the classifier."""
        self.classifier = Einsum(config, "BKD,DC->BKC", (config.hidden_size, 2), (2,), rngs)

    def __call__(self, pooled: Array) -> Array:
        """Return float32 logits [B, K, 2] from pooled [B, K, D]."""
        return self.classifier(pooled).astype(jnp.float32)
