"""``bert-jax convert``: write a model in the format of Hugging Face or of bert-jax."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipelines.models.convert import convert
from pipelines.models.open import MODEL_HELP, open_model
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("convert", "Write a model in another format, with identical weights.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("out", metavar="OUT", help="new or empty folder to write")
    parser.add_argument(
        "--to",
        type=Literal["hf", "bert-jax"],
        required=True,
        help="hf: a model for transformers; bert-jax: a checkpoint to use or to --init from",
    )
    options = parse(parser, argv)
    convert(open_model(options.model), Path(options.out), options.to)
