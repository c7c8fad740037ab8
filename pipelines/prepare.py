"""``bert-jax prepare``: turn a corpus into a token store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from bert_jax.console import progress, say
from bert_jax.errors import BadArgumentsError, BadInputError
from pipelines import cli
from pipelines.data import tokenizer as tokenizers
from pipelines.data.corpora import Document, open_corpus
from pipelines.data.store import LEDGER, WORK, Ledger, SplitName, StoreWriter, read_ledger
from pipelines.folders import own
from pipelines.settings import command_parser, parse

# Documents that are tokenised in one call, so that the libraries can use their threads.
_CHUNK = 256


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("prepare", "Turns a corpus into a token store.")
    parser.add_argument("--corpus", required=True, metavar="SPEC", help="python-docs or text:GLOB")
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="DIR",
        help="from train-tokenizer, or with BERT's vocab.txt",
    )
    parser.add_argument("--out", required=True, metavar="STORE", help="folder to write")
    parser.add_argument(
        "--heldout", type=float, default=0.02, help="share of the documents kept for evaluation"
    )
    options = parse(parser, argv)
    prepare(options.corpus, Path(options.tokenizer), Path(options.out), options.heldout)


def prepare(spec: str, tokenizer_dir: Path, out: Path, heldout: float) -> Ledger:
    """Writes the store `out`, unless it is there already.

    Raises:
        UserError: A wrong argument, corpus or tokenizer, or `out` is another store.
    """
    if not 0 <= heldout < 1:
        raise BadArgumentsError(f"--heldout must be in [0, 1), not {heldout}")
    own(out, "--out", (LEDGER, WORK))
    corpus = open_corpus(spec)
    tokenizer = tokenizers.load(tokenizer_dir)
    if (out / LEDGER).is_file():
        ledger = read_ledger(out)
        _check_same(ledger, spec, tokenizer.digest, heldout, out)
        say(f"{out}: already there, {_summary(ledger)}")
        return ledger
    writer = StoreWriter(out, tokenizer)
    with progress("documents", None) as show:
        done = 0
        for chunk in _chunks(corpus.documents()):
            encoded = iter(tokenizer.encode([sentence for text in chunk for sentence in text]))
            for document in chunk:
                split: SplitName = "heldout" if _share(document) < heldout else "train"
                writer.add(split, list(islice(encoded, len(document))))
            done += len(chunk)
            show(done, "")
    _check_enough(writer, spec)
    ledger = writer.close(spec, corpus.licence, heldout)
    say(f"{out}: {_summary(ledger)}")
    if heldout and ledger.total("heldout", "documents") < 2:
        say("fewer than two documents are held out: no evaluation; see --heldout")
    return ledger


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _share(document: Document) -> float:
    """A number in [0, 1) that depends on the text alone, so that copies fall on the same side."""
    text = "\n".join(document).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) / 2**64


def _check_enough(writer: StoreWriter, spec: str) -> None:
    documents = writer.documents("train")
    if documents + writer.documents("heldout") == 0:
        raise BadInputError(f"corpus {spec!r} is empty: no document with a token in it")
    if documents < 2:
        raise BadInputError(
            f"corpus {spec!r} has {documents} document(s) to train on; next sentence prediction"
            " needs two. A blank line begins a new document; --heldout 0 holds none back"
        )


def _check_same(ledger: Ledger, spec: str, tokenizer: str, heldout: float, out: Path) -> None:
    asked = {"corpus": spec, "tokenizer": tokenizer, "heldout": heldout}
    different = [
        f"{name} {getattr(ledger, name)} (asked: {value})"
        for name, value in asked.items()
        if getattr(ledger, name) != value
    ]
    if different:
        raise BadInputError(f"{out} was made with {', '.join(different)}; choose another --out")


def _summary(ledger: Ledger) -> str:
    parts = [
        f"{ledger.total(split, 'documents'):,} documents and {ledger.total(split, 'tokens'):,}"
        f" tokens ({split})"
        for split in ledger.splits
    ]
    return ", ".join(parts)


if __name__ == "__main__":
    cli.run(main)
