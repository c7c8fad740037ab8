"""``bert-jax fill-mask``: rank the tokens that could replace [MASK]."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bert_jax.runtime import distributed
from bert_jax.runtime.errors import printable
from pipelines.models.fill_mask import fill_mask
from pipelines.models.open import MODEL_HELP, open_model
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("fill-mask", "Rank the tokens that could replace [MASK].")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("text", metavar="TEXT", help='such as "Paris is the [MASK] of France."')
    parser.add_argument("--top-k", type=int, default=5, help="answers per mask")
    parser.add_argument("--json", action="store_true", help="print JSON: a list for each mask")
    options = parse(parser, argv)
    distributed.enable_compilation_cache()
    model = open_model(options.model)
    model.require_masked_language_head()
    params = model.pretraining_params()
    masks = fill_mask(params, model.network, model.tokenizer(), options.text, options.top_k)
    if options.json:
        print(json.dumps(masks))  # noqa: T201
        return
    for number, answers in enumerate(masks):
        if number:
            print()  # noqa: T201
        for answer in answers:
            line = f"{answer['probability']:7.2%}  {answer['token']:16} {answer['text']}"
            print(printable(line))  # noqa: T201
