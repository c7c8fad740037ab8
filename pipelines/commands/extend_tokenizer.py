"""``bert-jax extend-tokenizer``: words of a field for a vocabulary that has room for them.

The vocabularies of google-research/bert keep some tokens, ``[unused0]`` and so on, for this: a word
that takes the place of one gets its id, and all other ids stay, so that a published checkpoint can
go on training with the new vocabulary. What it has under such an id has learned nothing yet.
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
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import at, check_kind
from pipelines.commands.train_tokenizer import Sentences, is_there, write
from pipelines.data.sources.corpora import CORPUS_HELP, open_corpus
from pipelines.data.tokenizers.tokenizer import WordPieceTokenizer, load
from pipelines.settings import command_parser, parse

# A word seen fewer times is a slip of the pen as often as a word, and cannot be learned from them.
MIN_COUNT = 5
_SHOWN = 10  # words in the summary

_FREE = re.compile(r"\[unused\d+\]")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "extend-tokenizer",
        "Puts words of a field into the [unusedN] places of a WordPiece vocabulary.",
    )
    parser.add_argument("model", metavar="MODEL", help="run folder, or folder of a tokenizer")
    parser.add_argument("--corpus", action="append", metavar="SPEC", help=CORPUS_HELP)
    parser.add_argument("--words", type=int | None, help="how many words to take from the corpus")
    parser.add_argument("--list", metavar="FILE", help="the words instead, one per line")
    parser.add_argument("--language", default="en", help="of the text, for splitting sentences")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    options = parse(parser, argv)
    if (options.corpus is None) == (options.list is None):
        raise BadArgumentsError("give either --corpus SPEC and --words N, or --list FILE")
    if (options.corpus is None) != (options.words is None):
        raise BadArgumentsError("--words N belongs to --corpus SPEC: how many words to take")
    if options.words is not None and options.words < 1:
        raise BadArgumentsError(f"--words must be at least 1, not {options.words}")
    extend(
        at(options.model),
        Path(options.out),
        specs=options.corpus or (),
        limit=options.words or 0,
        listed=None if options.list is None else Path(options.list),
        language=options.language,
    )


def extend(
    model: Path,
    out: Path,
    *,
    specs: Sequence[str] = (),
    limit: int = 0,
    listed: Path | None = None,
    language: str = "en",
) -> None:
    """Writes the tokenizer of `model` with new words to `out`, unless it is there already.

    Args:
        model: Folder of a tokenizer, or with one.
        out: Folder to write.
        specs: Of a corpus whose words are counted; none where `listed` is given.
        limit: How many words to take from it.
        listed: File with the words, one per line.
        language: Of the corpus.

    Raises:
        UserError: The vocabulary has no room, the words do not fit, or `out` is something else.
    """
    started = time.monotonic()
    tokenizer = load(model)
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise BadInputError(
            f"{model} has a SentencePiece model, whose pieces cannot be exchanged;"
            " learn another with train-tokenizer"
        )
    free = [number for number, piece in enumerate(tokenizer.pieces) if _FREE.fullmatch(piece)]
    if not free:
        raise BadInputError(
            f"the vocabulary of {model} has no [unusedN] tokens to take the place of;"
            " learn another with train-tokenizer"
        )
    record: dict[str, Any] = {"extends": tokenizer.digest}
    if listed is None:
        corpus = open_corpus(*specs)
        record |= {"corpus": corpus.spec, "files": corpus.files, "words": limit}
    else:
        words = read_list(tokenizer, listed, len(free))
        record["list"] = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
    if is_there(out, record):
        say(f"{out}: already there")
        return
    if listed is None:
        words = choose(tokenizer, Sentences(corpus, language), min(limit, len(free)))
    write(replaced(tokenizer, dict(zip(free, words, strict=False))), out, record)
    sources = [word for spec in specs or ("SPEC",) for word in ("--corpus", spec)]
    shown = ", ".join(words[:_SHOWN]) + ", …" * (len(words) > _SHOWN)
    summary(
        f"{out}: {len(free):,} [unusedN] tokens were free, {len(words):,} are words now",
        started,
        ("prepare", *sources, "--tokenizer", str(out), "--out", str(out.parent / "store")),
        words=shown,
    )


def choose(tokenizer: WordPieceTokenizer, sentences: Iterable[str], limit: int) -> list[str]:
    """The words that save most tokens when they are whole, at most `limit`.

    Args:
        tokenizer: Cuts text into words, and words into pieces.
        sentences: To count them in.
        limit: How many.

    Raises:
        BadInputError: There is none.
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
            f"every word that stands in the text {MIN_COUNT} times or more is one token already;"
            " choose another corpus"
        )
    return sorted(saved, key=lambda word: (-saved[word], word))[:limit]


def read_list(tokenizer: WordPieceTokenizer, file: Path, room: int) -> list[str]:
    """The words in a file that the vocabulary lacks, each once, as the tokenizer spells them.

    Raises:
        BadInputError: A line is not one word, or there are none or more than `room`.
    """
    check_kind(file)
    try:
        lines = file.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInputError(f"{file} is not UTF-8 ({error}); convert it") from None
    words: dict[str, None] = {}
    known = set(tokenizer.pieces)
    for number, line in enumerate(lines, 1):
        found = tokenizer.words(line)
        if len(found) > 1 or any(len(word) > tokenizer.max_word for word in found):
            raise BadInputError(
                f"{file}, line {number}: {line.strip()[:60]!r} is not one word of at most"
                f" {tokenizer.max_word} characters to this tokenizer"
                f" ({' | '.join(found)[:60]}); take it out"
            )
        words |= dict.fromkeys(word for word in found if word not in known)
    if not words:
        raise BadInputError(f"{file} has no word that is not in the vocabulary already")
    if len(words) > room:
        raise BadInputError(
            f"{file} has {len(words):,} new words, and the vocabulary {room:,} free [unusedN]"
            " tokens; shorten the list"
        )
    return list(words)


def replaced(tokenizer: WordPieceTokenizer, words: dict[int, str]) -> WordPieceTokenizer:
    """The same tokenizer with other tokens under the ids of `words`."""
    pieces = [words.get(number, piece) for number, piece in enumerate(tokenizer.pieces)]
    return WordPieceTokenizer(
        pieces,
        tokenizer.uncased,
        strip_accents=tokenizer.strip_accents,
        split_cjk=tokenizer.split_cjk,
        max_word=tokenizer.max_word,
    )
