"""``bert-jax inspect``: shapes, parameter count, step, config and digest of a model or preset."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from bert_jax.config.presets import PRESETS
from bert_jax.config.run import ModelConfig, as_dict
from bert_jax.nn.tensor_names import abstract_params
from bert_jax.runtime import distributed
from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.runtime.paths import at
from bert_jax.training.checksums import digest, named_leaves
from bert_jax.training.flops import training_flops
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import Params, parameter_count
from pipelines.models.open import MODEL_HELP, open_model
from pipelines.settings import command_parser, nearest, parse

_LENGTHS = (128, 512)  # of the paper's two phases


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("inspect", "Shows what a model consists of.")
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--preset", metavar="NAME", help="such as bert-base, instead of MODEL")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    if (options.model is None) == (options.preset is None):
        raise BadArgumentsError("give either a MODEL or --preset NAME")
    found, params = _preset(options.preset) if options.preset else _model(at(options.model))
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return
    for name, leaf in named_leaves(params):
        print(f"{name:48} {leaf.dtype!s:10} {leaf.shape}")  # noqa: T201
    for name in ("architecture", "parameters", "step", "digest"):
        value = found[name]
        print(f"{name:12} {value:,}" if isinstance(value, int) else f"{name:12} {value or '-'}")  # noqa: T201
    for length, flops in found["training_flops_per_token"].items():
        print(f"training takes {flops:.4g} FLOPs per token at length {length}")  # noqa: T201


def _preset(name: str) -> tuple[dict[str, Any], Params]:
    if name not in PRESETS:
        raise BadArgumentsError(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    config = ModelConfig(preset=name, vocab_size=PRESETS[name][0]).resolved()
    params = abstract_params(config)
    found = _found(params, config, "BertForPreTraining")
    return found | {"digest": None, "step": None, "config": {"model": asdict(config)}}, params


def _model(path: Path) -> tuple[dict[str, Any], Params]:
    distributed.devices()
    model = open_model(path, Partitioner(jax.local_devices()[:1]))
    params, network = model.weights.params, model.network
    made = model.run or model.finetune
    config = as_dict(made) if made else {"model": asdict(network)}
    found = _found(params, network, model.weights.architecture)
    return found | {"digest": digest(params), "step": model.step, "config": config}, params


def _found(params: Params, network: ModelConfig, architecture: str) -> dict[str, Any]:
    lengths = [length for length in _LENGTHS if length <= network.max_positions]
    return {
        "architecture": architecture,
        "parameters": parameter_count(params),
        "training_flops_per_token": {
            length: training_flops(network, length, 1, math.ceil(0.15 * length)) / length
            for length in lengths or [network.max_positions]
        },
    }
