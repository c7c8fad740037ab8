"""Train a tokenizer on a corpus."""

from __future__ import annotations

import time
from pathlib import Path

from bert_jax.runtime.console import say, summary
from pipelines.data.sources.corpora import Corpus, Sentences
from pipelines.data.tokenizers import record as records
from pipelines.data.tokenizers.letter_marks import MarkCounter, marks_warning
from pipelines.data.tokenizers.tokenizer import WordPieceTokenizer
from pipelines.data.tokenizers.vocabulary import Kind, train_vocabulary


def train(
    corpus: Corpus,
    vocab_size: int,
    out: Path,
    kind: Kind,
    uncased: bool,
    language: str = "en",
    keep_accents: bool = False,
) -> None:
    """Train a tokenizer and write it to `out`, unless it exists.

    Args:
        corpus: The text; see `corpora.open_corpus`.
        vocab_size: Number of tokens, special ones included.
        out: Folder to write.
        kind: unigram or bpe (SentencePiece), or wordpiece.
        uncased: Lowercase the text (WordPiece also strips accents, as BERT does).
        language: ISO 639 code, for splitting paragraphs into sentences.
        keep_accents: Uncased WordPiece does not strip accents.

    Raises:
        UserError: A wrong argument or corpus, or `out` contains another tokenizer.

    Source: SentencePiece (Kudo and Richardson 2018); WordPiece and the special tokens as in
    google-research/bert's ``vocab.txt``.
    """
    started = time.monotonic()
    record = {
        "corpus": corpus.spec,
        "files": corpus.files,
        "vocab_size": vocab_size,
        "kind": kind,
        "uncased": uncased,
        "keep_accents": keep_accents,
    }
    if records.exists(out, record):
        say(f"{out}: already exists, {vocab_size:,} tokens ({kind})")
        return
    sentences = MarkCounter(Sentences(corpus, language))
    tokenizer = train_vocabulary(kind, sentences, vocab_size, uncased, keep_accents)
    records.write(tokenizer, out, record)
    if isinstance(tokenizer, WordPieceTokenizer) and tokenizer.strip_accents:
        line = marks_warning(sentences.words, sentences.marked, sentences.example)
        if line:
            say(f"warning: {out}: {line}")
    specs = [word for source in corpus.sources for word in ("--corpus", source.spec)]
    summary(
        f"{out}: {tokenizer.vocab_size:,} tokens ({kind}, {'un' if uncased else ''}cased)",
        started,
        ["prepare", *specs, "--tokenizer", str(out), "--out", f"{out.parent / 'store'}"],
    )
