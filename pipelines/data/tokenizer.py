"""Vocabularies: SentencePiece and WordPiece behind one interface.

A tokenizer is a folder that holds either ``sentencepiece.model`` or, for WordPiece, ``vocab.txt``
(one token per line, as google-research/bert publishes it) and a ``tokenizer_config.json`` with
``do_lower_case``. A bare ``vocab.txt`` is enough: a vocabulary without capitals is an uncased one.
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import sentencepiece
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from bert_jax.errors import BadArgumentsError, BadInputError

Kind = Literal["unigram", "bpe", "wordpiece"]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

SENTENCEPIECE_FILE = "sentencepiece.model"
VOCAB_FILE = "vocab.txt"
CONFIG_FILE = "tokenizer_config.json"

# SentencePiece keeps its training sentences in memory: 10 M of them are about 2 GiB.
MAX_TRAINING_SENTENCES = 10_000_000
# SentencePiece leaves longer ones out without a word; its default is 4,192.
_MAX_SENTENCE_BYTES = 1 << 26
# The pieces depend on this number (partial sums are added up per thread), so it is fixed.
_TRAINING_THREADS = 8
# google-research/bert: a longer word is [UNK].
_MAX_WORD_CHARACTERS = 200


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        pieces: The tokens; the index is the id.
        digest: SHA-256 of everything that decides the ids.
    """

    def __init__(self, pieces: list[str], digest: str, source: Path | None) -> None:
        """Checks the special tokens.

        Raises:
            BadInputError: One is missing.
        """
        self.pieces = pieces
        self.digest = digest
        ids = {piece: number for number, piece in enumerate(pieces)}
        missing = [special for special in SPECIALS if special not in ids]
        if missing:
            raise BadInputError(f"{source or 'vocabulary'} lacks {', '.join(missing)}")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids[special] for special in SPECIALS
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.pieces)

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] and [SEP]; special tokens in a text are plain text."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""

    @abstractmethod
    def word_starts(self) -> np.ndarray:
        """bool [V]: whether the token begins a word."""

    @abstractmethod
    def spelled(self, token: int) -> str:
        """The text of one token, after a space if it begins a word."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the files that `load` reads."""

    def encode_masked(self, text: str) -> list[int]:
        """Ids of a text in which the word ``[MASK]`` stands for the mask token."""
        ids: list[int] = []
        for number, part in enumerate(text.split("[MASK]")):
            if number:
                ids.append(self.mask_id)
            (encoded,) = self.encode([part])
            if not encoded:
                continue
            # SentencePiece starts every text with a word boundary, also "." after a mask.
            bare = number and not part[:1].isspace() and self.pieces[encoded[0]] == "▁"
            ids += encoded[1:] if bare else encoded
        return ids


class SentencePieceTokenizer(Tokenizer):
    """A unigram or BPE model of the sentencepiece library."""

    def __init__(self, model: bytes, source: Path | None = None) -> None:
        """Reads a serialised model.

        Raises:
            BadInputError: It is not one.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise BadInputError(f"{source} is not a SentencePiece model") from None
        pieces = [self._processor.id_to_piece(i) for i in range(len(self._processor))]
        super().__init__(pieces, hashlib.sha256(model).hexdigest(), source)
        self._model = model

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode`."""
        return self._processor.encode(list(texts), num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return self._processor.decode([int(i) for i in ids])

    def word_starts(self) -> np.ndarray:
        """See `Tokenizer.word_starts`; punctuation is a word of its own, as in WordPiece."""
        return np.array([p.startswith("▁") or _is_punctuation(p) for p in self.pieces])

    def spelled(self, token: int) -> str:
        """See `Tokenizer.spelled`."""
        piece = self.pieces[token]
        return f" {piece}" if piece in SPECIALS else piece.replace("▁", " ")

    def save(self, folder: Path) -> None:
        """See `Tokenizer.save`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SENTENCEPIECE_FILE).write_bytes(self._model)


class WordPieceTokenizer(Tokenizer):
    """BERT's own tokenizer, run by the Rust ``tokenizers`` library."""

    def __init__(self, pieces: list[str], uncased: bool, source: Path | None = None) -> None:
        """Tokenizer of the vocabulary `pieces`.

        Raises:
            BadInputError: A token stands there twice or a special token is missing.
        """
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        if len(vocabulary) < len(pieces):
            twice = next(p for number, p in enumerate(pieces) if vocabulary[p] != number)
            raise BadInputError(f"{source or 'vocabulary'} has the token {twice!r} twice")
        lines = "\n".join([*pieces, str(uncased)])
        super().__init__(pieces, hashlib.sha256(lines.encode()).hexdigest(), source)
        self.uncased = uncased
        self._tokenizer = _rust_wordpiece(vocabulary, uncased)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode`."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def word_starts(self) -> np.ndarray:
        """See `Tokenizer.word_starts`."""
        return np.array([not piece.startswith("##") for piece in self.pieces])

    def spelled(self, token: int) -> str:
        """See `Tokenizer.spelled`."""
        piece = self.pieces[token]
        return piece[2:] if piece.startswith("##") else f" {piece}"

    def save(self, folder: Path) -> None:
        """See `Tokenizer.save`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VOCAB_FILE).write_text("".join(f"{piece}\n" for piece in self.pieces), "utf-8")
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": self.uncased}
        (folder / CONFIG_FILE).write_text(json.dumps(config) + "\n")


def load(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`.

    Raises:
        BadInputError: There is none, or its files are damaged.
    """
    model, vocabulary, config = (folder / f for f in (SENTENCEPIECE_FILE, VOCAB_FILE, CONFIG_FILE))
    if model.is_file():
        return SentencePieceTokenizer(model.read_bytes(), model)
    if not vocabulary.is_file():
        raise BadInputError(f"{folder} has neither {SENTENCEPIECE_FILE} nor {VOCAB_FILE}")
    try:
        pieces = vocabulary.read_text("utf-8").removesuffix("\n").split("\n")
        given = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    except ValueError as error:
        raise BadInputError(f"{folder}: {vocabulary.name} or {config.name}: {error}") from None
    pieces = [piece.rstrip("\r") for piece in pieces]
    uncased = given.get("do_lower_case", not _has_capitals(pieces))
    return WordPieceTokenizer(pieces, bool(uncased), vocabulary)


def train(
    kind: Kind,
    sentences: Iterable[str],
    vocab_size: int,
    uncased: bool,
) -> Tokenizer:
    """Learns a vocabulary; the same sentences always give the same one.

    WordPiece reads them twice and keeps only the words; SentencePiece keeps a sample of them.

    Raises:
        BadArgumentsError: `vocab_size` leaves no room beside the special tokens.
        BadInputError: The text is empty or supports only a smaller or larger vocabulary.
    """
    if vocab_size <= len(SPECIALS):
        raise BadArgumentsError(
            f"a vocabulary of {vocab_size} has no room beside the {len(SPECIALS)} special tokens"
        )
    if kind == "wordpiece":
        return _train_wordpiece(sentences, vocab_size, uncased)
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
    """Sentences for the C++ trainer, which turns an error of theirs into its own."""

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
        return "the corpus is empty: no sentence to learn a vocabulary from"
    if "too high" in text:
        most = text.rstrip(". ").rpartition(" ")[2]
        return f"the text supports at most {most} tokens; lower --vocab-size {vocab_size}"
    if "required_chars" in text:
        least = text.partition(" vs ")[2].partition(".")[0]
        return (
            f"--vocab-size {vocab_size} cannot hold the characters of the text;"
            f" it needs more than {least}"
        )
    return f"SentencePiece could not learn a vocabulary: {text}"


def _train_wordpiece(sentences: Iterable[str], vocab_size: int, uncased: bool) -> Tokenizer:
    tokenizer = _rust_wordpiece({}, uncased)
    # The trainer numbers single characters inside words in the order of a randomly seeded hash
    # table and breaks ties by number; numbering them first makes the result repeatable.
    inner = {
        f"##{character}"
        for text in sentences
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(text)
        )
        for character in word[1:]
    }
    if not inner:
        raise BadInputError("the corpus is empty: no sentence to learn a vocabulary from")
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
    return WordPieceTokenizer(sorted(ids, key=ids.__getitem__), uncased)


def _rust_wordpiece(vocabulary: dict[str, int], uncased: bool) -> RustTokenizer:
    tokenizer = RustTokenizer(
        models.WordPiece(
            vocab=vocabulary,
            unk_token=SPECIALS[1],
            max_input_chars_per_word=_MAX_WORD_CHARACTERS,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=uncased, lowercase=uncased
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _is_punctuation(piece: str) -> bool:
    return all(unicodedata.category(character)[0] in "PS" for character in piece)


def _has_capitals(pieces: list[str]) -> bool:
    return any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
