"""Describe a model or a preset."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from bert_jax.config.model import ModelConfig
from bert_jax.config.presets import PRESETS
from bert_jax.config.run import as_dict
from bert_jax.nn.encoder import Params
from bert_jax.nn.tensor_names import abstract_params
from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.training.checksums import digest
from bert_jax.training.flops import training_flops
from bert_jax.training.state import parameter_count
from pipelines.models.open import open_model
from pipelines.option_errors import nearest

_LENGTHS = (128, 512)  # of the paper's two phases


def inspect_preset(name: str) -> tuple[dict[str, Any], Params]:
    """Return the facts of a preset, and its parameters as shapes.

    Raises:
        BadArgumentsError: The preset is unknown.
    """
    if name not in PRESETS:
        raise BadArgumentsError(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    config = ModelConfig(preset=name, vocab_size=PRESETS[name][0]).resolved()
    params = abstract_params(config)
    facts = _facts(params, config, "BertForPreTraining")
    return facts | {"digest": None, "step": None, "config": {"model": asdict(config)}}, params


def inspect_model(path: str) -> tuple[dict[str, Any], Params]:
    """Return the facts of the model in `path`, and its parameters.

    Raises:
        BadInputError: `path` contains no model, or a damaged one.
    """
    model = open_model(path)
    params, network = model.weights.params, model.network
    trained = model.run or model.finetune
    config = as_dict(trained) if trained else {"model": asdict(network)}
    facts = _facts(params, network, model.weights.architecture)
    return facts | {"digest": digest(params), "step": model.step, "config": config}, params


def _facts(params: Params, network: ModelConfig, architecture: str) -> dict[str, Any]:
    lengths = [length for length in _LENGTHS if length <= network.max_positions]
    return {
        "architecture": architecture,
        "parameters": parameter_count(params),
        "training_flops_per_token": {
            length: training_flops(network, length, 1, math.ceil(0.15 * length)) / length
            for length in lengths or [network.max_positions]
        },
    }
