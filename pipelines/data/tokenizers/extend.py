"""Add domain words to the ``[unusedN]`` slots of a WordPiece vocabulary.

The vocabularies of google-research/bert reserve some tokens, ``[unused0]`` and so on, for this
purpose: a word that replaces one gets its id, and all other ids stay. A published checkpoint can so
be trained further with the new vocabulary; the embeddings of the new words are untrained.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bert_jax.runtime.console import say, summary
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import check_kind
from pipelines.data.sources.corpora import Sentences, open_corpus
from pipelines.data.tokenizers import record as records
from pipelines.data.tokenizers.tokenizer import WordPieceTokenizer, load

# A rarer word is often a typing error, and too rare to be learned.
MIN_COUNT = 5
_PRINTED = 10  # words in the summary

_UNUSED = re.compile(r"\[unused\d+\]")


def extend(
    model: Path,
    out: Path,
    *,
    specs: Sequence[str] = (),
    limit: int = 0,
    word_list: Path | None = None,
    language: str = "en",
) -> None:
    """Write the tokenizer of `model` with new words to `out`, unless it exists.

    Args:
        model: Folder of a tokenizer, run or model.
        out: Folder to write.
        specs: Corpus in which words are counted; empty if `word_list` is given.
        limit: Number of words to take from the corpus.
        word_list: File with the words, one per line.
        language: Language of the corpus.

    Raises:
        UserError: There are no free slots, the words do not fit, or `out` contains other files.
    """
    started = time.monotonic()
    tokenizer, slots = _open(model)
    record: dict[str, Any] = {"extends": tokenizer.digest}
    if word_list is None:
        corpus = open_corpus(*specs)
        record |= {"corpus": corpus.spec, "files": corpus.files, "words": limit}
    else:
        words = read_words(tokenizer, word_list, len(slots))
        record["list"] = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
    if records.exists(out, record):
        say(f"{out}: already exists")
        return
    if word_list is None:
        words = choose_words(tokenizer, Sentences(corpus, language), min(limit, len(slots)))
    extended = with_words(tokenizer, dict(zip(slots, words, strict=False)))
    records.write(extended, out, record)
    sources = [word for spec in specs or ("SPEC",) for word in ("--corpus", spec)]
    summary(
        f"{out}: {len(words):,} words replace {len(words):,} of {len(slots):,} [unusedN] tokens",
        started,
        ("prepare", *sources, "--tokenizer", str(out), "--out", str(out.parent / "store")),
        words=", ".join(words[:_PRINTED]) + ", …" * (len(words) > _PRINTED),
    )


def _open(model: Path) -> tuple[WordPieceTokenizer, list[int]]:
    """Return the tokenizer and the ids of its unused tokens."""
    tokenizer = load(model)
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise BadInputError(
            f"{model} has a SentencePiece model, whose pieces cannot be replaced;"
            " train another tokenizer with train-tokenizer"
        )
    slots = [number for number, piece in enumerate(tokenizer.pieces) if _UNUSED.fullmatch(piece)]
    if not slots:
        raise BadInputError(
            f"the vocabulary of {model} has no [unusedN] tokens to replace;"
            " train another tokenizer with train-tokenizer"
        )
    return tokenizer, slots


def choose_words(tokenizer: WordPieceTokenizer, sentences: Iterable[str], limit: int) -> list[str]:
    """Return at most `limit` words, those that save most tokens as one token each.

    Args:
        tokenizer: Splits text into words, and words into pieces.
        sentences: Text in which the words are counted.
        limit: Maximum number of words.

    Raises:
        BadInputError: There are no such words.
    """
    counts = Counter(word for sentence in sentences for word in tokenizer.words(sentence))
    common = [word for word, count in counts.items() if count >= MIN_COUNT]
    ids = tokenizer.encode(common)
    saved = {
        word: counts[word] * (len(pieces) - 1)
        for word, pieces in zip(common, ids, strict=True)
        if len(pieces) > 1 and tokenizer.unk_id not in pieces
    }
    if not saved:
        raise BadInputError(
            f"every word that occurs {MIN_COUNT} times or more in the corpus is already one token;"
            " choose another corpus"
        )
    return sorted(saved, key=lambda word: (-saved[word], word))[:limit]


def read_words(tokenizer: WordPieceTokenizer, file: Path, limit: int) -> list[str]:
    """Read the words of a list that the vocabulary lacks, without repeats, normalized.

    Raises:
        BadInputError: A line is not one word, or there are no words or more than `limit`.
    """
    check_kind(file)
    try:
        lines = file.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInputError(f"{file} is not UTF-8 ({error}); convert it") from None
    words: dict[str, None] = {}
    vocabulary = set(tokenizer.pieces)
    for number, line in enumerate(lines, 1):
        parts = tokenizer.words(line)
        if len(parts) > 1 or any(len(word) > tokenizer.max_word for word in parts):
            raise BadInputError(
                f"{file}, line {number}: the tokenizer does not read {line.strip()[:60]!r} as one"
                f" word of at most {tokenizer.max_word} characters ({' | '.join(parts)[:60]});"
                " remove the line"
            )
        words |= dict.fromkeys(word for word in parts if word not in vocabulary)
    if not words:
        raise BadInputError(f"{file} has no words that the vocabulary lacks; list other words")
    if len(words) > limit:
        raise BadInputError(
            f"{file} has {len(words):,} new words, but the vocabulary has only {limit:,} [unusedN]"
            " tokens; shorten the list"
        )
    return list(words)


def with_words(tokenizer: WordPieceTokenizer, words: dict[int, str]) -> WordPieceTokenizer:
    """Return the tokenizer with the tokens `words` under their ids."""
    pieces = [words.get(number, piece) for number, piece in enumerate(tokenizer.pieces)]
    return WordPieceTokenizer(
        pieces,
        tokenizer.uncased,
        strip_accents=tokenizer.strip_accents,
        split_cjk=tokenizer.split_cjk,
        max_word=tokenizer.max_word,
        added=tokenizer.added,
    )
