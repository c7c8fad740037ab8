"""``config.json`` and ``bert_config.json``: configs of networks in other formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bert_jax.config.model import ModelConfig
from bert_jax.runtime.errors import BadInputError

# Their key -> our key and the largest value that is accepted.
_SIZES = {
    "vocab_size": ("vocab_size", 1 << 24),
    "hidden_size": ("hidden_size", 1 << 16),
    "num_hidden_layers": ("layers", 1 << 10),
    "num_attention_heads": ("heads", 1 << 12),
    "intermediate_size": ("feed_forward_size", 1 << 18),
    "max_position_embeddings": ("max_positions", 1 << 20),
    "type_vocab_size": ("type_vocab_size", 1 << 10),
}
_RATES = {
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "initializer_range": "initializer_range",
    "layer_norm_eps": "layer_norm_epsilon",
}
Gelu = Literal["tanh", "erf"]


def network(content: Mapping[str, Any], path: Path, activations: Mapping[str, Gelu]) -> ModelConfig:
    """Return the network of a config; it computes in float32, like the source of the weights.

    Args:
        content: Of `path`.
        path: For messages.
        activations: Their names of activation functions -> ours.

    Raises:
        BadInputError: A size is missing or out of range, or the network is not BERT's.
    """
    values: dict[str, Any] = {}
    for key, (ours, most) in _SIZES.items():
        size = content.get(key)
        if type(size) is not int or not 1 <= size <= most:
            raise BadInputError(
                f"{path}: {key} must be a whole number from 1 to {most}, not {size!r}"
            )
        values[ours] = size
    for key, ours in _RATES.items():
        rate = content.get(key)
        if rate is None:
            continue
        if type(rate) not in (int, float) or not 0 <= rate < 1:
            raise BadInputError(f"{path}: {key} must be a number in [0, 1), not {rate!r}")
        values[ours] = float(rate)
    activation = content.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in activations:
        raise BadInputError(
            f"{path}: hidden_act {activation!r} is not BERT's; valid: {', '.join(activations)}"
        )
    try:
        return ModelConfig(**values, gelu=activations[activation], dtype="float32").resolved()
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from None


def described(config: ModelConfig) -> dict[str, Any]:
    """Return the sizes and rates of a network under the keys of ``config.json``."""
    sizes = {key: getattr(config, ours) for key, (ours, _) in _SIZES.items()}
    return sizes | {key: getattr(config, ours) for key, ours in _RATES.items()}
