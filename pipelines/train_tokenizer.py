"""``bert-jax train-tokenizer``: learn a vocabulary from a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from bert_jax.console import progress, say
from bert_jax.errors import BadArgumentsError, BadInputError
from pipelines import cli
from pipelines.data import tokenizer as tokenizers
from pipelines.data.corpora import Corpus, open_corpus
from pipelines.folders import own
from pipelines.settings import command_parser, parse

# Says what a tokenizer was learned from, so that the same command again finds its work done.
RECORD = "training.json"


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("train-tokenizer", "Learns a vocabulary from a corpus.")
    parser.add_argument("--corpus", required=True, metavar="SPEC", help="python-docs or text:GLOB")
    parser.add_argument(
        "--vocab-size", type=int, required=True, help="tokens, special ones included"
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
        help="how SentencePiece cuts words; unigram, its default, encodes four times as fast",
    )
    casing = parser.add_mutually_exclusive_group()
    casing.add_argument(
        "--uncased", dest="uncased", action="store_true", default=True, help="lower-case the text"
    )
    casing.add_argument("--cased", dest="uncased", action="store_false", help="keep capitals")
    options = parse(parser, argv)
    if options.kind == "wordpiece" and options.model:
        raise BadArgumentsError("--model is a choice of --kind sentencepiece; leave it out")
    kind: tokenizers.Kind = (
        "wordpiece" if options.kind == "wordpiece" else options.model or "unigram"
    )
    train(options.corpus, options.vocab_size, Path(options.out), kind, options.uncased)


def train(
    spec: str,
    vocab_size: int,
    out: Path,
    kind: tokenizers.Kind,
    uncased: bool,
) -> None:
    """Learns a vocabulary into `out`, unless it is there already.

    Raises:
        UserError: A wrong argument or corpus, or `out` holds another tokenizer.
    """
    own(out, "--out", (RECORD,))
    record = {"corpus": spec, "vocab_size": vocab_size, "kind": kind, "uncased": uncased}
    if (out / RECORD).is_file():
        try:
            found = json.loads((out / RECORD).read_text("utf-8"))
        except ValueError:
            raise BadInputError(
                f"{out / RECORD} is damaged; remove {out} and learn again"
            ) from None
        if found == record:
            say(f"{out}: already there, {vocab_size:,} tokens ({kind})")
            return
        other = ", ".join(f"{key} {value}" for key, value in found.items())
        raise BadInputError(f"{out} holds a tokenizer made with {other}; choose another --out")
    tokenizer = tokenizers.train(kind, _sentences(open_corpus(spec)), vocab_size, uncased)
    draft = out.with_name(f"{out.name}.tmp")
    tokenizer.save(draft)
    (draft / RECORD).write_text(json.dumps(record) + "\n", "utf-8")
    draft.replace(out)
    say(f"{out}: {tokenizer.vocab_size:,} tokens ({kind}, {'un' if uncased else ''}cased)")


def _sentences(corpus: Corpus) -> Iterator[str]:
    with progress("reading documents", None) as show:
        for number, document in enumerate(corpus.documents(), start=1):
            yield from document
            show(number, "")


if __name__ == "__main__":
    cli.run(main)
