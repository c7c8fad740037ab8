"""Initial values from the statistics of a corpus: the same network, without the plateau.

A small BERT that starts from random values first learns the frequencies of tokens, and stays at
their entropy until attention begins to work. These values end that plateau before the first step:

1. The bias of the MLM head is the logarithm of the token frequencies.
2. Token embeddings are vectors of co-occurrence (see `pipelines.data.store.cooccurrence`), [MASK]
   is zero.
3. Positions are sines and cosines in R dimensions of their own, where the other two tables are 0,
   so that tokens and positions do not drown each other.
4. The heads of the first layer attend to fixed offsets: -1, +1, -2, +2, … The query of a head turns
   each pair (cos, sin) by the offset; its key copies the pair.
5. The transform of the MLM head is near the identity, and feed-forward blocks return 0.

Everything else is random, with a standard deviation of 1.1 / sqrt(D). The network and its export
remain those of BERT.

Dimensions are those of `layers`, and R position dimensions.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.nn.encoder import Params, init_params

Values = dict[str, np.ndarray]  # name of an array below -> float32

_EMBEDDING_STD = 0.1
_PEAK = 6.0  # score, in nats, of the position that a head of the first layer attends to
_IDENTITY = 0.3
_NOISE = 0.1  # random part of the transform, as a fraction of the usual values
_GAIN = 1.1
_TRUNCATED = 0.88  # standard deviation that the cut at two leaves of a normal one
_STREAM = 1  # of the seed, apart from the network's random values


def head_offsets(heads: int) -> list[int]:
    """Return the offset that each head of the first layer attends to: -1, 1, -2, 2, …"""
    return [(1 if head % 2 else -1) * (head // 2 + 1) for head in range(heads)]


def corpus_values(
    config: ModelConfig, counts: np.ndarray, vectors: np.ndarray, mask_id: int, seed: int
) -> Values:
    """Compute the initial values that depend on the corpus or on positions.

    In NumPy and on one process: other machines may round differently.

    Args:
        config: The network; ``vocab_size`` may be larger than the vocabulary.
        counts: float64 [vocabulary]: how often each token occurs.
        vectors: float32 [vocabulary, D - R]: co-occurrence vectors, zero for unseen tokens.
        mask_id: The id of [MASK].
        seed: Of the run.

    Returns:
        ``token`` [V, D], ``position`` [max_positions, D], ``query`` and ``key`` [D, N, H] of the
        first layer, ``bias`` [V].
    """
    R, rng = config.position_dimensions, np.random.default_rng([seed, _STREAM])
    frequencies = np.pi * (np.arange(R // 2) + rng.uniform(0, 1, R // 2)) / (R // 2)  # [R/2]
    query, key = _local_heads(config, frequencies)
    values = {
        "token": _tokens(config, vectors, mask_id, rng),
        "position": _positions(config, frequencies),
        "query": query,
        "key": key,
        "bias": _log_frequencies(config, counts),
    }
    return {name: value.astype(np.float32) for name, value in values.items()}


def corpus_params(config: ModelConfig, seed: int, values: dict[str, Array]) -> Params:
    """Return the parameters of a network that starts with `values`; pure."""
    std = _GAIN / config.hidden_size**0.5
    params = init_params(replace(config, initializer_range=std), seed)
    embeddings, head = params["bert"]["embeddings"], params["mlm"]
    R = config.position_dimensions
    embeddings["token"], embeddings["position"] = values["token"], values["position"]
    embeddings["segment"] = embeddings["segment"].at[:, :R].set(0)  # [G, D]
    first = params["bert"]["layers"]["attention"]
    for name in ("query", "key"):
        kernel = first[name]["kernel"]  # [L, D, N, H]
        first[name]["kernel"] = kernel.at[0].set(values[name])
    output = params["bert"]["layers"]["feed_forward"]["output"]
    output["kernel"] = jnp.zeros_like(output["kernel"])  # [L, F, D]
    noise = head["transform"]["kernel"]  # [D, E]
    head["transform"]["kernel"] = _IDENTITY * jnp.eye(*noise.shape) + _NOISE * noise
    head["bias"] = values["bias"]
    return params


def _log_frequencies(config: ModelConfig, counts: np.ndarray) -> np.ndarray:
    """Return the centered logarithm of the frequencies, [V]; each token counts half once more."""
    padded = np.pad(counts, (0, config.vocab_size - len(counts))) + 0.5
    logarithms = np.log(padded / padded.sum())
    return logarithms - logarithms.mean()


def _tokens(
    config: ModelConfig, vectors: np.ndarray, mask_id: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the token embeddings, [V, D].

    Vectors are centered, and rotated at random so that no dimension has most of the variance.
    Tokens without a vector, [CLS] and [SEP] among them, become random ones.
    """
    K = vectors.shape[1]
    rotation, _ = np.linalg.qr(rng.standard_normal((K, K)))
    random = rng.standard_normal((config.vocab_size, K), np.float32) * _EMBEDDING_STD
    seen = np.flatnonzero(vectors.any(axis=1))
    rotated = (vectors[seen] - vectors[seen].mean(axis=0)) @ rotation
    random[seen] = rotated * (_EMBEDDING_STD / np.sqrt(np.mean(rotated**2)))
    random[mask_id] = 0
    return np.pad(random, ((0, 0), (config.hidden_size - K, 0)))


def _positions(config: ModelConfig, frequencies: np.ndarray) -> np.ndarray:
    """Return the position embeddings, [max_positions, D]: (cos, sin) of each frequency."""
    angles = np.outer(np.arange(config.max_positions), frequencies)  # [T, R/2]
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(len(angles), -1)  # [T, R]
    waves *= _EMBEDDING_STD * np.sqrt(2)
    return np.pad(waves, ((0, 0), (0, config.hidden_size - waves.shape[1])))


def _local_heads(config: ModelConfig, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return query and key kernels of the first layer, [D, N, H].

    At position t and frequency f the normalized embedding contains a (cos tf, sin tf). The product
    of the pairs at t + o and s is a^2 cos((t + o - s) f): over all frequencies it is largest at
    s = t + o, where the score is `_PEAK`.
    """
    D, N = config.hidden_size, config.heads
    H, R = D // N, 2 * len(frequencies)
    # Sums of squares of the three embeddings of a token. LayerNorm scales their sum to D.
    positions, tokens = R * _EMBEDDING_STD**2, (D - R) * _EMBEDDING_STD**2
    token_types = (D - R) * (_TRUNCATED * _GAIN) ** 2 / D
    squared = 2 * _EMBEDDING_STD**2 * D / (positions + tokens + token_types)  # a^2
    gain = np.sqrt(_PEAK * np.sqrt(H) / (squared * len(frequencies)))
    query, key = np.zeros((D, N, H)), np.zeros((D, N, H))
    pair = np.arange(0, R, 2)
    for head, offset in enumerate(head_offsets(N)):
        cos, sin = np.cos(offset * frequencies), np.sin(offset * frequencies)
        query[pair, head, pair], query[pair + 1, head, pair] = cos, -sin
        query[pair, head, pair + 1], query[pair + 1, head, pair + 1] = sin, cos
        key[np.arange(R), head, np.arange(R)] = 1
    return gain * query, gain * key
