"""``bert-jax extend-tokenizer``: add domain words to the vocabulary of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources.registry import corpus_help
from pipelines.data.tokenizers.extend import extend
from pipelines.data.tokenizers.fetch import tokenizer_folder
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "extend-tokenizer", "Add domain words to the [unusedN] slots of a WordPiece vocabulary."
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder, URL or hf:ORG/NAME of a run, model or tokenizer"
    )
    parser.add_argument("--corpus", action="append", metavar="SPEC", help=corpus_help())
    parser.add_argument(
        "--words", type=int | None, metavar="N", help="number of words to take from the corpus"
    )
    parser.add_argument("--list", metavar="FILE", help="file with the words instead, one per line")
    parser.add_argument("--language", default="en", help="of the text, for splitting sentences")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    options = parse(parser, argv)
    if (options.corpus is None) == (options.list is None):
        raise BadArgumentsError("give either --corpus SPEC and --words N, or --list FILE")
    if (options.corpus is None) != (options.words is None):
        raise BadArgumentsError("--corpus SPEC and --words N belong together; give both or none")
    if options.words is not None and options.words < 1:
        raise BadArgumentsError(f"--words must be at least 1, not {options.words}")
    with tokenizer_folder(options.model) as model:
        extend(
            model,
            Path(options.out),
            specs=options.corpus or (),
            limit=options.words or 0,
            word_list=None if options.list is None else Path(options.list),
            language=options.language,
        )
