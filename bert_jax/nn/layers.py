"""The blocks of BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

Dimensions have one letter everywhere: B batch, T query token, S key token, D model, N heads,
H head size, F feed-forward, V vocabulary, P predictions, L layers, E a second D, C classes,
K sequences of a row, G token types.

Parameters are float32. Matrix multiplications run in the config's dtype, softmax and LayerNorm in
float32. Dropout takes an explicit key; without one (None) a module is deterministic.

Why this file does not use the modules of its libraries (ms: one step of BERT-Base, 256 x 512, on
v2-32; all figures are estimates of the TPU compiler):

============================  =====================================================================
nnx.Einsum                    Rounds gradients of bfloat16 kernels and biases to bfloat16: 299.5
                              becomes 300 (test_matmul). `linear` keeps the float32 sums.
nnx.Embed                     Looks up token types with a gather, whose gradient serializes on TPUs
                              when the table has few rows. Here the lookup is a one-hot matmul.
nnx.Dropout                   Draws threefry bits per device and stores the mask for the backward
                              pass. A prototype took 161 ms, without dropout 157 ms. `dropout`
                              hashes the global index: 0.4% of a step (256 x 128), or 0.8% (v5p-16).
jax.nn.dot_product_attention  Has no dropout on the probabilities. `attend` stores these once, in
                              bfloat16, and redraws the masks: 33.6 to 32.0 ms with two layers; to
                              30.5 with bfloat16 scores. `attend_on_tpu` (TPUs from v4 on) stores
                              none: on v5p-16, a step with `attend` takes 20% longer.
============================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.nn.attention import attend, probabilities, uses_kernel
from bert_jax.nn.attention_mask import AttentionMask
from bert_jax.nn.dropout import dropout, seeds
from bert_jax.nn.matmul import linear


def initializer(config: ModelConfig) -> jax.nn.initializers.Initializer:
    """Return the truncated normal of all kernels and embeddings.

    As in TensorFlow, the standard deviation is nominal: truncation at two of it leaves 0.88 of it.
    """
    return jax.nn.initializers.truncated_normal(config.initializer_range)


class Einsum(nnx.Module):
    """A linear map, written as the einsum of input and kernel."""

    def __init__(
        self,
        config: ModelConfig,
        einsum: str,
        kernel_shape: tuple[int, ...],
        bias_shape: tuple[int, ...],
        rngs: nnx.Rngs,
    ) -> None:
        """Create kernel and bias; the bias has the last dimensions of the result."""
        self.einsum = einsum
        self.kernel = nnx.Param(initializer(config)(rngs.params(), kernel_shape))
        self.bias = nnx.Param(jnp.zeros(bias_shape))

    def __call__(self, x: Array) -> Array:
        """Map `x`, in its dtype."""
        return linear(self.einsum, x, self.kernel[...], self.bias[...])

    @property
    def is_flat(self) -> bool:
        """Whether the kernel has the heads side by side (see `training.device_form`)."""
        return self.kernel.ndim == 2

    def flat(self, x: Array) -> Array:
        """Map [B, T, D] to [B, T, E], with heads side by side in the last axis (N x H)."""
        bias = self.bias[...].reshape(-1)
        return linear("BTD,DE->BTE", x, self.kernel[...].reshape(-1, bias.size), bias)


def layer_norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Create a LayerNorm over D with float32 statistics."""
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_epsilon, dtype=jnp.float32, rngs=rngs
    )


def gelu(config: ModelConfig) -> Callable[[Array], Array]:
    """Return the activation function, in its tanh or erf form."""
    approximate = config.gelu == "tanh"
    return lambda x: jax.nn.gelu(x, approximate=approximate)


def split(key: Array | None, count: int) -> list[Array | None]:
    """Split a key into `count` keys; None into `count` times None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class Embeddings(nnx.Module):
    """Sum of token, token type and position embedding, LayerNorm, dropout (paper, section 3)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create the three tables."""
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
        """Embed int [B, T] ids as [B, T, D]; without `position_ids` each row counts from 0."""
        T = token_ids.shape[1]
        # [B, T, G]: one-hot, because the gradient of a gather with few rows serializes on TPUs.
        token_types = jax.nn.one_hot(token_type_ids, self.segment.shape[0], dtype=jnp.float32)
        positions = self.position[...]
        # [B, T, D]
        x = self.token[...][token_ids]
        x = x + jnp.einsum("BTG,GD->BTD", token_types, self.segment[...])
        x = x + (positions[None, :T] if position_ids is None else positions[position_ids])
        return dropout(self.norm(x), self.rate, key).astype(self.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create the four projections."""
        D, N = config.hidden_size, config.heads
        H = D // N
        self.query = Einsum(config, "BTD,DNH->BTNH", (D, N, H), (N, H), rngs)
        self.key = Einsum(config, "BSD,DNH->BSNH", (D, N, H), (N, H), rngs)
        self.value = Einsum(config, "BSD,DNH->BSNH", (D, N, H), (N, H), rngs)
        self.output = Einsum(config, "BTNH,NHD->BTD", (N, H, D), (D,), rngs)
        self.rate, self.kernel, self.head_size = config.attention_dropout, config.attention, H

    def __call__(self, x: Array, attention_mask: AttentionMask, key: Array | None) -> Array:
        """Attend from every token of `x`, [B, T, D], to the tokens that the mask allows."""
        rate = 0.0 if key is None else self.rate
        dropout_seeds = jnp.zeros(2, jnp.int32) if key is None else seeds(key)
        projections, scale = (self.query, self.key, self.value), self.head_size**-0.5
        if uses_kernel(self.kernel, x.shape[1], x.shape[2], self.head_size):
            from bert_jax.nn.attention_pallas import attend_on_tpu

            query, keys, value = (project.flat(x) for project in projections)  # [B, T, N x H]
            heads = attend_on_tpu(
                query * scale, keys, value, attention_mask, self.head_size, dropout_seeds, rate
            )
            return self.output.flat(heads)  # [B, T, D]
        query, keys, value = (self._heads(project, x) for project in projections)  # [B, T, N, H]
        heads = attend(query * scale, keys, value, attention_mask, dropout_seeds, rate)
        if self.output.is_flat:
            return self.output.flat(heads.reshape(x.shape))  # [B, T, D]
        return self.output(heads)  # [B, T, D]

    def _heads(self, project: Einsum, x: Array) -> Array:
        """Map [B, T, D] to [B, T, N, H]."""
        if project.is_flat:
            return project.flat(x).reshape(*x.shape[:2], -1, self.head_size)
        return project(x)

    def probabilities(self, x: Array, attention_mask: AttentionMask) -> Array:
        """Return the attention probabilities without dropout, float32 [B, N, T, S].

        Args:
            x: As in `__call__`, which does not use this method; it is for inspection.
            attention_mask: The same.
        """
        query = self._heads(self.query, x) * self.head_size**-0.5  # [B, T, N, H]
        return probabilities(query, self._heads(self.key, x), attention_mask.mask())


class FeedForward(nnx.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create both maps."""
        D, F = config.hidden_size, config.feed_forward_size
        self.intermediate = Einsum(config, "BTD,DF->BTF", (D, F), (F,), rngs)
        self.output = Einsum(config, "BTF,FD->BTD", (F, D), (D,), rngs)
        self.activation = gelu(config)

    def __call__(self, x: Array) -> Array:
        """Map [B, T, D] to [B, T, D]."""
        hidden = self.activation(self.intermediate(x))  # [B, T, F]
        return self.output(hidden)  # [B, T, D]


class EncoderLayer(nnx.Module):
    """Attention and feed-forward, each followed by dropout, residual and LayerNorm (post-norm)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create both sub-blocks."""
        self.attention = Attention(config, rngs)
        self.attention_norm = layer_norm(config, rngs)
        self.feed_forward = FeedForward(config, rngs)
        self.feed_forward_norm = layer_norm(config, rngs)
        self.rate = config.hidden_dropout

    def __call__(self, x: Array, attention_mask: AttentionMask, key: Array | None) -> Array:
        """Map [B, T, D] to [B, T, D]."""
        weights_key, attention_key, feed_forward_key = split(key, 3)
        # [B, T, D]
        attended = self.attention(x, attention_mask, weights_key)
        x = self.attention_norm(x + dropout(attended, self.rate, attention_key)).astype(x.dtype)
        mapped = dropout(self.feed_forward(x), self.rate, feed_forward_key)
        return self.feed_forward_norm(x + mapped).astype(x.dtype)
