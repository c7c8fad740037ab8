"""``bert-jax convert``: write a model in another format, and upload it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.hub.upload import push, push_target
from pipelines.models.convert import Format, convert
from pipelines.models.open import MODEL_HELP, open_model
from pipelines.models.states import Pooling
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("convert", "Write a model in another format, with identical weights.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("out", metavar="OUT", help="new or empty folder to write")
    parser.add_argument(
        "--to",
        type=Format,
        required=True,
        help="hf: a model for transformers; sentence-transformers: its encoder with a pooling;"
        " bert-jax: a checkpoint to use or to --init from",
    )
    parser.add_argument(
        "--pooling",
        type=Pooling | None,
        metavar="{mean,cls,max}",
        help="of sentence-transformers, over all tokens (default: mean)",
    )
    parser.add_argument(
        "--push",
        metavar="ORG/NAME",
        default="",
        help="upload OUT to this repository of the Hugging Face hub; a new one is private",
    )
    options = parse(parser, argv)
    if options.pooling and options.to != "sentence-transformers":
        raise BadArgumentsError("--pooling belongs to --to sentence-transformers")
    target = None
    if options.push:
        if options.to == "bert-jax":
            raise BadArgumentsError("--push needs --to hf or --to sentence-transformers")
        target = push_target(options.push)
    model, out = open_model(options.model), Path(options.out)
    name = target.name if target else ""
    convert(model, out, options.to, pooling=options.pooling or "mean", name=name)
    if target:
        push(out, target)
