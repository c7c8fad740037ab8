"""Arithmetic that a model needs, and what a device can do: the two sides of MFU."""

from __future__ import annotations

from bert_jax.config.run import ModelConfig

# Dense bfloat16 peak of one JAX device in FLOP/s, by `Device.device_kind`. TPU: Google Cloud's
# system architecture pages (a v2 or v3 chip is two devices). GPU: NVIDIA's data sheets.
PEAK_FLOPS = {
    "TPU v2": 23e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def training_flops(config: ModelConfig, tokens: int, sequences: int, predictions: int) -> float:
    """Floating point operations that one update needs; a multiply-add is two.

    Counted are the matrix products of forward and backward pass (twice the forward) on real tokens;
    padding, elementwise work and recomputation are not work. Attention is counted as if all
    sequences had the mean length, and frozen parameters as if they were trained.

    Args:
        config: The network, with every size stated.
        tokens: In the batch, without padding.
        sequences: In the batch.
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
