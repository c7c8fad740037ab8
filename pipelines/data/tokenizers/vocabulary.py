"""Train a vocabulary on sentences."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Literal

import sentencepiece
from tokenizers import trainers

from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.data.tokenizers.tokenizer import (
    SPECIALS,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    rust_wordpiece,
)

Kind = Literal["unigram", "bpe", "wordpiece"]

# SentencePiece keeps its training sentences in memory: 10 M of them are about 2 GiB.
MAX_TRAINING_SENTENCES = 10_000_000
# SentencePiece silently skips longer sentences; its default is 4,192.
_MAX_SENTENCE_BYTES = 1 << 26
# The pieces depend on this number, because sums are computed per thread, so it is fixed.
_TRAINING_THREADS = 8
_EMPTY = "the corpus is empty: it has no sentence to train on; check --corpus"


def train_vocabulary(
    kind: Kind,
    sentences: Iterable[str],
    vocab_size: int,
    uncased: bool,
    keep_accents: bool = False,
) -> Tokenizer:
    """Train a vocabulary; the same sentences always give the same result.

    WordPiece reads them twice and keeps only the words; SentencePiece keeps a sample of them.

    Args:
        kind: unigram or bpe (SentencePiece), or wordpiece.
        sentences: The text.
        vocab_size: Number of tokens, special ones included.
        uncased: Lowercase the text.
        keep_accents: Uncased WordPiece keeps combining marks; SentencePiece always does.

    Raises:
        BadArgumentsError: `vocab_size` is not larger than the number of special tokens.
        BadInputError: The text is empty or supports only a smaller or larger vocabulary.
    """
    if vocab_size <= len(SPECIALS):
        raise BadArgumentsError(
            f"--vocab-size {vocab_size} must be larger than {len(SPECIALS)}, the number of special"
            " tokens"
        )
    if kind == "wordpiece":
        return _train_wordpiece(sentences, vocab_size, uncased, uncased and not keep_accents)
    return _train_sentencepiece(kind, sentences, vocab_size, uncased)


def _train_sentencepiece(
    kind: str, sentences: Iterable[str], vocab_size: int, uncased: bool
) -> Tokenizer:
    source = _Source(sentences)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=source,
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            normalization_rule_name="nmt_nfkc_cf" if uncased else "nmt_nfkc",
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=SPECIALS[0],
            unk_piece=SPECIALS[1],
            control_symbols=list(SPECIALS[2:]),
            input_sentence_size=MAX_TRAINING_SENTENCES,
            max_sentence_length=_MAX_SENTENCE_BYTES,
            num_threads=_TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        if source.error is not None:
            raise source.error from None
        raise BadInputError(_training_failure(str(error), source.count, vocab_size)) from None
    return SentencePieceTokenizer(model.getvalue())


class _Source(Iterator[str]):
    """Sentences for the C++ trainer; keeps their error, which the trainer replaces."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self._sentences = iter(sentences)
        self.error: BaseException | None = None
        self.count = 0

    def __next__(self) -> str:
        try:
            sentence = next(self._sentences)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise
        self.count += 1
        return sentence


def _training_failure(text: str, sentences: int, vocab_size: int) -> str:
    if sentences == 0:
        return _EMPTY
    if "too high" in text:
        maximum = text.rstrip(". ").rpartition(" ")[2]
        return f"the text supports at most {maximum} tokens; lower --vocab-size {vocab_size}"
    if "required_chars" in text:
        characters = text.partition(" vs ")[2].partition(".")[0]
        return (
            f"--vocab-size {vocab_size} is too small for the characters of the text;"
            f" it must be larger than {characters}"
        )
    return f"SentencePiece failed to train a vocabulary: {text}; change --vocab-size or the corpus"


def _train_wordpiece(
    sentences: Iterable[str], vocab_size: int, uncased: bool, strip_accents: bool
) -> Tokenizer:
    tokenizer = rust_wordpiece({}, uncased, strip_accents)
    # The trainer numbers single characters inside words in the order of a randomly seeded hash
    # table and breaks ties by number. Numbering them first makes the result reproducible.
    inner = {
        f"##{character}"
        for text in sentences
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(text)
        )
        for character in word[1:]
    }
    if not inner:
        raise BadInputError(_EMPTY)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIALS, *sorted(inner)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(sentences), trainer)
    ids = tokenizer.get_vocab()
    if len(ids) != vocab_size:
        bound = "at most" if len(ids) < vocab_size else "at least"
        raise BadInputError(
            f"the text supports {bound} {len(ids)} tokens; change --vocab-size {vocab_size}"
        )
    pieces = sorted(ids, key=ids.__getitem__)
    return WordPieceTokenizer(pieces, uncased, strip_accents=strip_accents)
