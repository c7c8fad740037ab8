"""``bert-jax train-tokenizer``: train a tokenizer on a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources.corpora import open_corpus
from pipelines.data.sources.registry import corpus_help
from pipelines.data.tokenizers.train import train
from pipelines.data.tokenizers.vocabulary import Kind
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("train-tokenizer", "Train a tokenizer on a corpus.")
    parser.add_argument(
        "--corpus", action="append", required=True, metavar="SPEC", help=corpus_help()
    )
    parser.add_argument(
        "--vocab-size", type=int, required=True, help="number of tokens, special ones included"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--kind",
        type=Literal["sentencepiece", "wordpiece"],
        default="sentencepiece",
        help="library and file format",
    )
    parser.add_argument(
        "--model",
        type=Literal["unigram", "bpe"] | None,
        metavar="{unigram,bpe}",
        help="SentencePiece model; unigram, the default, encodes four times as fast",
    )
    parser.add_argument("--language", default="en", help="of the text, for splitting sentences")
    casing = parser.add_mutually_exclusive_group()
    casing.add_argument(
        "--uncased", dest="uncased", action="store_true", default=True, help="lowercase the text"
    )
    casing.add_argument("--cased", dest="uncased", action="store_false", help="keep capitals")
    parser.add_argument(
        "--keep-accents",
        action="store_true",
        help="keep accents and vowel signs in lowercase WordPiece; SentencePiece and --cased"
        " always keep them",
    )
    options = parse(parser, argv)
    if options.kind == "wordpiece" and options.model:
        raise BadArgumentsError("--model needs --kind sentencepiece; remove one of them")
    if options.keep_accents and options.kind == "sentencepiece":
        raise BadArgumentsError(
            "--keep-accents needs --kind wordpiece; remove it, SentencePiece always keeps accents"
        )
    keep_accents = options.keep_accents and options.uncased
    kind: Kind = "wordpiece" if options.kind == "wordpiece" else options.model or "unigram"
    corpus, out = open_corpus(*options.corpus), Path(options.out)
    train(corpus, options.vocab_size, out, kind, options.uncased, options.language, keep_accents)
