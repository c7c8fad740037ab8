"""``bert-jax train-tokenizer``: learn a vocabulary from a corpus."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bert_jax.runtime.console import progress, say, summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import remove
from pipelines.data.sources.corpora import CORPUS_HELP, Corpus, open_corpus
from pipelines.data.store.shards import has_whole_lines, split_document
from pipelines.data.tokenizers import training
from pipelines.data.tokenizers.tokenizer import DIGEST, RECORD, Tokenizer, load
from pipelines.folders import check_same, exclusive, own
from pipelines.models.formats.config_json import read_json
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("train-tokenizer", "Learns a vocabulary from a corpus.")
    parser.add_argument(
        "--corpus", action="append", required=True, metavar="SPEC", help=CORPUS_HELP
    )
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
    parser.add_argument("--language", default="en", help="of the text, for splitting sentences")
    casing = parser.add_mutually_exclusive_group()
    casing.add_argument(
        "--uncased", dest="uncased", action="store_true", default=True, help="lower-case the text"
    )
    casing.add_argument("--cased", dest="uncased", action="store_false", help="keep capitals")
    options = parse(parser, argv)
    if options.kind == "wordpiece" and options.model:
        raise BadArgumentsError("--model is a choice of --kind sentencepiece; leave it out")
    kind: training.Kind = "wordpiece" if options.kind == "wordpiece" else options.model or "unigram"
    corpus = open_corpus(*options.corpus)
    out, uncased = Path(options.out), options.uncased
    train(corpus, options.vocab_size, out, kind, uncased, options.language)


def train(
    corpus: Corpus,
    vocab_size: int,
    out: Path,
    kind: training.Kind,
    uncased: bool,
    language: str = "en",
) -> None:
    """Learns a vocabulary into `out`, unless it is there already.

    Args:
        corpus: The text; see `corpora.open_corpus`.
        vocab_size: Tokens, special ones included.
        out: Folder to write.
        kind: unigram or bpe (SentencePiece), or wordpiece.
        uncased: Whether capitals become small letters (and WordPiece loses accents).
        language: ISO 639 code, for splitting paragraphs into sentences.

    Returns:
        Nothing; the tokenizer is in `out`.

    Raises:
        UserError: A wrong argument or corpus, or `out` holds another tokenizer.

    Source: SentencePiece (Kudo and Richardson 2018); WordPiece and the special tokens as
    google-research/bert's ``vocab.txt`` has them.
    """
    started = time.monotonic()
    record = {
        "corpus": corpus.spec,
        "files": corpus.files,
        "vocab_size": vocab_size,
        "kind": kind,
        "uncased": uncased,
    }
    if is_there(out, record):
        say(f"{out}: already there, {vocab_size:,} tokens ({kind})")
        return
    sentences = Sentences(corpus, language)
    tokenizer = training.train(kind, sentences, vocab_size, uncased)
    write(tokenizer, out, record)
    specs = [word for source in corpus.sources for word in ("--corpus", source.spec)]
    then = ["prepare", *specs, "--tokenizer", str(out), "--out", f"{out.parent / 'store'}"]
    summary(
        f"{out}: {tokenizer.vocab_size:,} tokens ({kind}, {'un' if uncased else ''}cased)",
        started,
        then,
    )


def is_there(out: Path, record: Mapping[str, Any]) -> bool:
    """Whether `out` holds a tokenizer that was made as `record` says.

    Raises:
        BadInputError: It holds another one, or other things.
    """
    own(out, "--out", (RECORD,))
    if not (out / RECORD).is_file():
        return False
    try:
        found = read_json(out / RECORD)
    except BadInputError as error:
        raise BadInputError(f"{error}; remove {out} and learn again") from None
    check_same(found, record, f"the tokenizer in {out}")
    load(out)
    return True


def write(tokenizer: Tokenizer, out: Path, record: Mapping[str, Any]) -> None:
    """Writes the tokenizer and its record at once.

    Raises:
        DeviceUnavailableError: Another process does so now.
    """
    draft = out.with_name(f"{out.name}.tmp")
    with _held(draft):
        if is_there(out, record):  # by another process, while this one learned
            remove(draft)
            return
        tokenizer.save(draft)
        content = {**record, DIGEST: tokenizer.digest}
        (draft / RECORD).write_text(json.dumps(content) + "\n", "utf-8")
        draft.replace(out)


def _held(draft: Path) -> ExitStack:
    """Makes `draft` and holds it, or what another process has just made of it: see `is_there`."""
    held = ExitStack()
    while True:
        draft.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has renamed it in between
            held.enter_context(exclusive(draft))
            return held


@dataclass(frozen=True)
class Sentences:
    """The sentences of a corpus; can be read any number of times."""

    corpus: Corpus
    language: str

    def __iter__(self) -> Iterator[str]:
        """Reads them, with progress."""
        total, done = self.corpus.size(), 0
        with progress("reading text, MB", max(1, total >> 20)) as show:
            for number in range(len(self.corpus.sources)):
                whole_lines = has_whole_lines(self.corpus, number, self.language)
                for block in self.corpus.blocks(number):
                    for document in block.documents():
                        lines = document if whole_lines else split_document(document, self.language)
                        yield from lines
                        done += sum(map(len, document))
                        show(min(done, total) >> 20, "")
