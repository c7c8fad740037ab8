"""``config.json`` and ``bert_config.json``: the network as others write it down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bert_jax.config.run import ModelConfig
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import check_kind

# Their key -> ours and the largest value that is believed.
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


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        BadInputError: There is none.
    """
    check_kind(path)
    try:
        given = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise BadInputError(f"{path}: expected keys and values, found a {type(given).__name__}")
    return given


def network(given: Mapping[str, Any], path: Path, activations: Mapping[str, Gelu]) -> ModelConfig:
    """The network that a config describes; products in float32, as where the weights come from.

    Args:
        given: Of `path`.
        path: For messages.
        activations: What the names of activation functions mean there.

    Raises:
        BadInputError: A size is missing or impossible, or this network is not BERT's.
    """
    values: dict[str, Any] = {}
    for key, (ours, most) in _SIZES.items():
        size = given.get(key)
        if type(size) is not int or not 1 <= size <= most:
            raise BadInputError(
                f"{path}: {key} must be a whole number from 1 to {most}, not {size!r}"
            )
        values[ours] = size
    for key, ours in _RATES.items():
        rate = given.get(key)
        if rate is None:
            continue
        if type(rate) not in (int, float) or not 0 <= rate < 1:
            raise BadInputError(f"{path}: {key} must be a number in [0, 1), not {rate!r}")
        values[ours] = float(rate)
    activation = given.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in activations:
        raise BadInputError(
            f"{path}: hidden_act {activation!r} is not BERT's; known: {', '.join(activations)}"
        )
    try:
        return ModelConfig(**values, gelu=activations[activation], dtype="float32").resolved()
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from None


def described(config: ModelConfig) -> dict[str, Any]:
    """The keys of ``config.json`` for a network, sizes and rates."""
    sizes = {key: getattr(config, ours) for key, (ours, _) in _SIZES.items()}
    return sizes | {key: getattr(config, ours) for key, ours in _RATES.items()}
