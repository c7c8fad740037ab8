"""Names of older versions, read until 1.0 in configs, checkpoints and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys of the section `model`: old -> new.
MODEL_KEYS = {"segments": "type_vocab_size"}
# Options, without the leading hyphens: old -> new.
OPTIONS = {"heldout": "held-out"} | {
    f"model.{old}": f"model.{new}" for old, new in MODEL_KEYS.items()
}


def renamed_model_keys(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section `model` of any version under the names of this one."""
    return {MODEL_KEYS.get(key, key): value for key, value in model.items()}


def renamed_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of any version, as a nested dict, under the names of this one."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        return dict(config)
    return {**config, "model": renamed_model_keys(model)}


def old_keys(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of a config that have a new name, as ``{old: new}`` with dots."""
    model = config.get("model")
    keys = model if isinstance(model, Mapping) else {}
    return {f"model.{old}": f"model.{new}" for old, new in MODEL_KEYS.items() if old in keys}
