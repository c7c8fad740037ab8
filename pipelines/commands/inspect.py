"""``bert-jax inspect``: shapes, parameters, step and digest of a model or preset."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.training.checksums import named_leaves
from pipelines.models.inspect import inspect_model, inspect_preset
from pipelines.models.open import MODEL_HELP
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("inspect", "Show the tensors and facts of a model or preset.")
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--preset", metavar="NAME", help="such as bert-base, instead of MODEL")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    if (options.model is None) == (options.preset is None):
        raise BadArgumentsError("give either a MODEL or --preset NAME")
    facts, params = (
        inspect_preset(options.preset) if options.preset else inspect_model(options.model)
    )
    if options.json:
        print(json.dumps(facts))  # noqa: T201
        return
    for name, leaf in named_leaves(params):
        print(f"{name:48} {leaf.dtype!s:10} {leaf.shape}")  # noqa: T201
    for name in ("architecture", "parameters", "step", "digest"):
        value = facts[name]
        print(f"{name:12} {value:,}" if isinstance(value, int) else f"{name:12} {value or '-'}")  # noqa: T201
    for length, flops in facts["training_flops_per_token"].items():
        print(f"training takes {flops:.4g} FLOPs per token at length {length}")  # noqa: T201
