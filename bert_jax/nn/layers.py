"""The blocks of BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

Dimensions have one letter everywhere: B batch, T query token, S key token, D model, N heads,
H head size, F feed-forward, V vocabulary, P predictions, L layers, E a second D, C classes,
K sequences of a row, G token types.

Parameters are float32. Matrix multiplications run in the config's dtype, softmax and LayerNorm in
float32. Dropout takes an explicit key; without one (None) a module is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from bert_jax.config.run import ModelConfig
from bert_jax.nn.attention import attend, probabilities, takes_kernel
from bert_jax.nn.attention_mask import AttentionMask
from bert_jax.nn.dropout import dropout, seeds
from bert_jax.nn.matmul import linear


def initializer(config: ModelConfig) -> jax.nn.initializers.Initializer:
    """The truncated normal of every kernel and embedding.

    As in TensorFlow the standard deviation is nominal: cutting at two of it leaves 0.88 of it.
    """
    return jax.nn.initializers.truncated_normal(config.initializer_range)


class Einsum(nnx.Module):
    """An linear map, written as the einsum of its input and its kernel."""

    def __init__(
        self,
        config: ModelConfig,
        einsum: str,
        kernel_shape: tuple[int, ...],
        bias_shape: tuple[int, ...],
        rngs: nnx.Rngs,
    ) -> None:
        """Creates kernel and bias; the bias has the last dimensions of the result."""
        self.einsum = einsum
        self.kernel = nnx.Param(initializer(config)(rngs.params(), kernel_shape))
        self.bias = nnx.Param(jnp.zeros(bias_shape))

    def __call__(self, x: Array) -> Array:
        """Maps x, in the dtype of x."""
        return linear(self.einsum, x, self.kernel[...], self.bias[...])

    def flat(self, x: Array) -> Array:
        """The same for [B, T, D], to or from heads that lie side by side, [B, T, N x H]."""
        bias = self.bias[...].reshape(-1)
        return linear("BTD,DE->BTE", x, self.kernel[...].reshape(-1, bias.size), bias)


def layer_norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over D with float32 statistics."""
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_epsilon, dtype=jnp.float32, rngs=rngs
    )


def gelu(config: ModelConfig) -> Callable[[Array], Array]:
    """The activation function, in its tanh or erf form."""
    approximate = config.gelu == "tanh"
    return lambda x: jax.nn.gelu(x, approximate=approximate)


def split(key: Array | None, count: int) -> list[Array | None]:
    """`count` keys from one; no keys from none."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class Embeddings(nnx.Module):
    """Sum of token, segment and position embedding, LayerNorm, dropout (paper, section 3)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Creates the three tables."""
        init, D = initializer(config), config.hidden_size
        self.token = nnx.Param(init(rngs.params(), (config.vocab_size, D)))
        self.segment = nnx.Param(init(rngs.params(), (config.type_vocab_size, D)))
        self.position = nnx.Param(init(rngs.params(), (config.max_positions, D)))
        self.norm = layer_norm(config, rngs)
        self.rate = config.hidden_dropout
        self.dtype = config.dtype

    def __call__(
        self,
        token_ids: Array,
        token_type_ids: Array,
        key: Array | None,
        position_ids: Array | None = None,
    ) -> Array:
        """Embeds int [B, T] ids as [B, T, D]; positions count from 0 in each row unless given."""
        T = token_ids.shape[1]
        # A one-hot product, because the gradient of a gather with few rows serialises on TPU.
        kinds = jax.nn.one_hot(token_type_ids, self.segment.shape[0], dtype=jnp.float32)
        x = self.token[...][token_ids]
        x = x + jnp.einsum("BTG,GD->BTD", kinds, self.segment[...])
        positions = self.position[...]
        x = x + (positions[None, :T] if position_ids is None else positions[position_ids])
        return dropout(self.norm(x), self.rate, key).astype(self.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention with biases, in both directions."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Creates the four projections."""
        D, N = config.hidden_size, config.heads
        H = D // N
        self.query = Einsum(config, "BTD,DNH->BTNH", (D, N, H), (N, H), rngs)
        self.key = Einsum(config, "BSD,DNH->BSNH", (D, N, H), (N, H), rngs)
        self.value = Einsum(config, "BSD,DNH->BSNH", (D, N, H), (N, H), rngs)
        self.output = Einsum(config, "BTNH,NHD->BTD", (N, H, D), (D,), rngs)
        self.rate, self.kernel, self.head_size = config.attention_dropout, config.attention, H

    def __call__(self, x: Array, visible: AttentionMask, key: Array | None) -> Array:
        """Attends from every token of x, [B, T, D], to those that are `visible` to it."""
        rate = 0.0 if key is None else self.rate
        drawn = jnp.zeros(2, jnp.int32) if key is None else seeds(key)
        parts, scale = (self.query, self.key, self.value), self.head_size**-0.5
        if takes_kernel(self.kernel, x.shape[1], x.shape[2], self.head_size):
            from bert_jax.nn.attention_pallas import attend_on_tpu

            query, keys, value = (part.flat(x) for part in parts)
            heads = attend_on_tpu(query * scale, keys, value, visible, self.head_size, drawn, rate)
            return self.output.flat(heads)
        query, keys, value = (part(x) for part in parts)
        return self.output(attend(query * scale, keys, value, visible, drawn, rate))

    def probabilities(self, x: Array, visible: AttentionMask) -> Array:
        """float32 [B, N, T, S]: how much of each value every token takes, without dropout.

        Args:
            x: As in `__call__`, which has no use for this: it is for looking at.
            visible: The same.
        """
        query = self.query(x) * self.head_size**-0.5
        return probabilities(query, self.key(x), visible.mask())


class FeedForward(nnx.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Creates both maps."""
        D, F = config.hidden_size, config.feed_forward_size
        self.intermediate = Einsum(config, "BTD,DF->BTF", (D, F), (F,), rngs)
        self.output = Einsum(config, "BTF,FD->BTD", (F, D), (D,), rngs)
        self.activation = gelu(config)

    def __call__(self, x: Array) -> Array:
        """Maps [B, T, D] to [B, T, D]."""
        return self.output(self.activation(self.intermediate(x)))


class EncoderLayer(nnx.Module):
    """Attention and feed-forward, each followed by dropout, residual and LayerNorm (post-norm)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Creates both sub-blocks."""
        self.attention = Attention(config, rngs)
        self.attention_norm = layer_norm(config, rngs)
        self.feed_forward = FeedForward(config, rngs)
        self.feed_forward_norm = layer_norm(config, rngs)
        self.rate = config.hidden_dropout

    def __call__(self, x: Array, visible: AttentionMask, key: Array | None) -> Array:
        """Maps [B, T, D] to [B, T, D]."""
        weights_key, attention_key, feed_forward_key = split(key, 3)
        attended = dropout(self.attention(x, visible, weights_key), self.rate, attention_key)
        x = self.attention_norm(x + attended).astype(x.dtype)
        fed = dropout(self.feed_forward(x), self.rate, feed_forward_key)
        return self.feed_forward_norm(x + fed).astype(x.dtype)
