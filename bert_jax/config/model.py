"""The network of a run: the keys of ``model`` in a config. Nothing here imports JAX."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from bert_jax.config.presets import PRESETS
from bert_jax.config.resume_policies import free
from bert_jax.runtime.errors import BadInputError, at_least, fraction

_SIZE_NAMES = ("hidden_size", "layers", "heads", "feed_forward_size")
_RANGE = 0.02  # initializer_range of BERT
# Dimensions that `initialization: corpus` gives to positions: two for each frequency. With fewer
# than four frequencies, offsets can hardly be distinguished.
_MOST_POSITION_DIMENSIONS, _LEAST_POSITION_DIMENSIONS = 32, 8


@dataclass(frozen=True)
class ModelConfig:
    """The network. Sizes of 0 come from the preset, or from the model given as ``init``.

    Args:
        preset: bert-tiny, -mini, -small, -medium, -base or -large, optionally with -cased or
            -uncased, or another published model; empty = bert-base.
        vocab_size: Rows of the token embedding; 0 = size of the tokenizer's vocabulary.
        hidden_size: Width of the residual stream.
        layers: Number of encoder layers.
        heads: Number of attention heads; must divide hidden_size.
        feed_forward_size: Width inside the feed-forward block.
        max_positions: Maximum sequence length.
        type_vocab_size: Number of token types (BERT: 2, for the segments A and B; 1: single texts
            only).
        hidden_dropout: Dropout rate after the embeddings and after each sub-block.
        attention_dropout: Dropout rate on the attention probabilities.
        gelu: tanh (approximation, as in google-research/bert) or erf (Hugging Face's "gelu").
        layer_norm_epsilon: Added to the variance in LayerNorm.
        initialization: normal (BERT: random), or corpus: initial values from the token counts of
            the store, with which training skips its plateau; the network is the same.
        initializer_range: Nominal standard deviation of the truncated normal (cut at 2 of these);
            not for corpus, which uses 1.1 / sqrt(hidden_size).
        encoder: transformer (BERT), or a baseline to compare it with: left-to-right (causal
            attention) or lstm (bidirectional).
        dtype: Dtype of matrix multiplications; parameters, softmax, LayerNorm and loss are float32.
        attention: Implementation of attention: xla, pallas (a TPU kernel) or auto (pallas on TPUs
            from v4 on). Changes speed and memory, not results.
        remat: Activation checkpointing: none, elementwise (recompute all but matmuls) or layers
            (recompute whole layers). Changes speed and memory, not results.
    """

    preset: str = free("", "silent")
    vocab_size: int = 0
    hidden_size: int = 0
    layers: int = 0
    heads: int = 0
    feed_forward_size: int = 0
    max_positions: int = 512
    type_vocab_size: int = 2
    hidden_dropout: float = free(0.1)
    attention_dropout: float = free(0.1)
    gelu: Literal["tanh", "erf"] = "tanh"
    layer_norm_epsilon: float = 1e-12
    initialization: Literal["normal", "corpus"] = "normal"
    initializer_range: float = free(_RANGE)
    encoder: Literal["transformer", "left-to-right", "lstm"] = "transformer"
    dtype: Literal["bfloat16", "float32"] = free("bfloat16")
    attention: Literal["auto", "xla", "pallas"] = free("auto")
    remat: Literal["none", "elementwise", "layers"] = free("none")

    @property
    def is_stated(self) -> bool:
        """True if every size is set, none left to a preset or to the model given as init."""
        return all(getattr(self, size) for size in _SIZE_NAMES)

    def resolved(self) -> ModelConfig:
        """Return this config with every size set.

        Raises:
            BadInputError: The preset is unknown, or sizes contradict each other.
        """
        preset = self.preset or "bert-base"
        if preset not in PRESETS:
            raise BadInputError(
                f"model.preset {self.preset!r} is unknown; choose one of {', '.join(PRESETS)}"
            )
        _, layers, hidden_size, heads = PRESETS[preset]
        hidden_size = self.hidden_size or hidden_size
        full = replace(
            self,
            layers=self.layers or layers,
            hidden_size=hidden_size,
            heads=self.heads or heads,
            feed_forward_size=self.feed_forward_size or 4 * hidden_size,
        )
        at_least("model", full, 1, "hidden_size layers heads feed_forward_size max_positions")
        at_least("model", full, 1, "type_vocab_size")
        at_least("model", full, 0, "vocab_size")
        fraction("model", full, "hidden_dropout attention_dropout")
        if full.encoder == "lstm" and full.hidden_size % 2:
            raise BadInputError(
                f"model.hidden_size {full.hidden_size} is odd; model.encoder lstm needs an even"
                " number, half of it for each direction"
            )
        if full.hidden_size % full.heads:
            raise BadInputError(
                f"model.hidden_size {full.hidden_size} is not a multiple of"
                f" model.heads {full.heads}; change one of them"
            )
        if full.initialization == "corpus":
            full._check_corpus()
        return full

    @property
    def position_dimensions(self) -> int:
        """The dimensions R of the embeddings that ``initialization: corpus`` gives to positions."""
        head_size = self.hidden_size // self.heads
        return min(_MOST_POSITION_DIMENSIONS, head_size, self.hidden_size // 4) // 2 * 2

    def _check_corpus(self) -> None:
        if self.encoder != "transformer":
            raise BadInputError(
                f"model.initialization corpus needs model.encoder transformer, not {self.encoder};"
                " use model.initialization normal"
            )
        if self.initializer_range != _RANGE:
            raise BadInputError(
                "model.initializer_range has no effect with model.initialization corpus; remove one"
                " of them"
            )
        if self.position_dimensions < (least := _LEAST_POSITION_DIMENSIONS):
            raise BadInputError(
                f"model.initialization corpus gives positions at least {least} dimensions, a"
                f" quarter of model.hidden_size at most, now {self.hidden_size}, and not more than"
                f" a head has, now {self.hidden_size // self.heads}; use a larger hidden_size,"
                " fewer heads or model.initialization normal"
            )

    def started_from(self, other: ModelConfig) -> ModelConfig:
        """Return the network `other` with the training options of this config (dropout, dtype).

        Raises:
            BadInputError: This config sets another option of the network, to another value.
        """
        requested = self.resolved() if self.preset else self
        training = (
            *("preset", "hidden_dropout", "attention_dropout", "initialization"),
            *("initializer_range", "dtype", "attention", "remat"),
        )
        for key in fields(self):
            value, initial = getattr(requested, key.name), getattr(other, key.name)
            if key.name not in training and value not in (key.default, initial):
                raise BadInputError(
                    f"model.{key.name} {value} differs from {initial} in the model given as init;"
                    f" remove model.{key.name} or init from the config"
                )
        return replace(other, **{name: getattr(self, name) for name in training})

    def with_vocabulary(self, size: int) -> ModelConfig:
        """Return this network with room for `size` tokens; a larger ``vocab_size`` is kept.

        Raises:
            BadInputError: ``vocab_size`` is set and smaller than `size`.
        """
        if self.vocab_size == 0:
            return replace(self, vocab_size=size)
        if self.vocab_size < size:
            raise BadInputError(
                f"model.vocab_size {self.vocab_size} is smaller than the tokenizer's vocabulary of"
                f" {size}; increase it, or remove it to use the tokenizer's"
            )
        return self
