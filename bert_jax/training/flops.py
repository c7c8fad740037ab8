"""Arithmetic that a model needs, the numerator of MFU."""

from __future__ import annotations

from bert_jax.config.model import ModelConfig


def training_flops(config: ModelConfig, tokens: int, sequences: int, predictions: int) -> float:
    """Return the floating point operations of one update; a multiply-add is two.

    Counts the matmuls of the forward pass and of the backward pass (twice the forward) on real
    tokens, without padding, elementwise operations and recomputation. Treats all sequences as if
    they had the mean length, and frozen parameters as if they were trained.

    Args:
        config: The network, with every size stated.
        tokens: Tokens in the batch, without padding.
        sequences: Sequences in the batch.
        predictions: Masked tokens in the batch.
    """
    D, F, L, V = config.hidden_size, config.feed_forward_size, config.layers, config.vocab_size
    if config.encoder == "lstm":  # four gates of D / 2, from D and from D / 2, in two directions
        projections, attention = tokens * L * 6.0 * D * D, 0.0
    else:
        projections = tokens * L * (4.0 * D * D + 2.0 * D * F)
        attention = tokens * L * 2 * D * (tokens / sequences)
    heads = predictions * (D * D + D * V) + sequences * (D * D + 2 * D)
    return 3 * 2 * (projections + attention + heads)
