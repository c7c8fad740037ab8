"""``bert-jax inspect``: shapes, parameter count, step, config and digest of a model or preset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from bert_jax import parallel
from bert_jax.checkpoint import digest, named_leaves
from bert_jax.config import ModelConfig, as_dict
from bert_jax.errors import BadArgumentsError
from bert_jax.presets import PRESETS
from bert_jax.state import Params, init_params, parameter_count
from pipelines import cli
from pipelines.model import open_model
from pipelines.settings import command_parser, nearest, parse


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("inspect", "Shows what a model consists of.")
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="run folder or RUN/checkpoints/STEP"
    )
    parser.add_argument("--preset", metavar="NAME", help="such as bert-base, instead of MODEL")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    if (options.model is None) == (options.preset is None):
        raise BadArgumentsError("give either a MODEL or --preset NAME")
    found, params = _preset(options.preset) if options.preset else _model(Path(options.model))
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return
    for name, leaf in named_leaves(params):
        print(f"{name:48} {leaf.dtype!s:10} {leaf.shape}")  # noqa: T201
    for name in ("parameters", "step", "digest"):
        value = found[name]
        print(f"{name:12} {value:,}" if isinstance(value, int) else f"{name:12} {value or '-'}")  # noqa: T201


def _preset(name: str) -> tuple[dict[str, Any], Params]:
    if name not in PRESETS:
        raise BadArgumentsError(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    config = ModelConfig(preset=name, vocab_size=PRESETS[name][0]).resolved()
    params = jax.eval_shape(partial(init_params, config, 0))
    return _found(params, None, None, {"model": config.__dict__}), params


def _model(path: Path) -> tuple[dict[str, Any], Params]:
    parallel.devices()
    model = open_model(path, parallel.Layout(jax.local_devices()[:1]))
    config = as_dict(model.config)
    return _found(model.params, digest(model.params), model.meta.step, config), model.params


def _found(
    params: Params, sha256: str | None, step: int | None, config: dict[str, Any]
) -> dict[str, Any]:
    return {
        "parameters": parameter_count(params),
        "digest": sha256,
        "step": step,
        "config": config,
    }


if __name__ == "__main__":
    cli.run(main)
