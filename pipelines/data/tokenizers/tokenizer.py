"""Tokenizers: SentencePiece and WordPiece behind one interface.

A tokenizer is a folder with ``sentencepiece.model`` or, for WordPiece, ``vocab.txt`` (one token per
line, as google-research/bert publishes it) or ``tokenizer.json`` (of Hugging Face). The rules come
from ``tokenizer_config.json`` if it has ``do_lower_case``, as in transformers, and otherwise from
``tokenizer.json``. A single ``vocab.txt`` is enough: a vocabulary without capitals is uncased.

Words of more than 200 characters are [UNK], as in google-research/bert. transformers has a limit of
100; it applies if ``tokenizer.json`` states it and there is no ``vocab.txt``.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import check_kind
from pipelines.data.tokenizers import wordpiece_files
from pipelines.data.tokenizers.special_words import SpecialWords
from pipelines.data.tokenizers.tokenizer_json import AddedTokens
from pipelines.data.tokenizers.wordpiece_files import CONFIG_FILE, JSON_FILE, VOCAB_FILE
from pipelines.folders import absent
from pipelines.json_files import read_json

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

SENTENCEPIECE_FILE = "sentencepiece.model"
# The record of a tokenizer: its training data, to recognize finished work, and its digest, because
# a damaged vocabulary may still be a valid one.
RECORD, DIGEST = "training.json", "digest"
# The copy in a run and in a store.
SUBFOLDER = "tokenizer"

# Token ids, and the first and one-past-last character of each in the text.
Encoded = tuple[list[int], list[tuple[int, int]]]

# google-research/bert: a longer word is [UNK].
MAX_WORD = 200
# Appended to a serialized model; protocol buffers merge by concatenation:
# normalizer_spec { add_dummy_prefix: false }
_NO_PREFIX = b"\x1a\x02\x18\x00"


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        pieces: The tokens; the index is the id.
        digest: SHA-256 of everything that determines the ids.
    """

    def __init__(self, pieces: list[str], digest: str, source: Path | None) -> None:
        """Check the special tokens.

        Raises:
            BadInputError: A special token is missing.
        """
        self.pieces = pieces
        self.digest = digest
        ids = {piece: number for number, piece in enumerate(pieces)}
        missing = [special for special in SPECIALS if special not in ids]
        if missing:
            raise BadInputError(f"{source or 'vocabulary'} lacks {', '.join(missing)}; restore it")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids[special] for special in SPECIALS
        )

    @cached_property
    def special_words(self) -> SpecialWords:
        """The names of special tokens that are plain text in a text, and their counts."""
        return SpecialWords(SPECIALS)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.pieces)

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without [CLS] and [SEP]; "[SEP]" in a text is plain text."""

    @abstractmethod
    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """Return the ids of each text, as `encode` does, and the span of characters of each id."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`."""

    @abstractmethod
    def word_starts(self) -> np.ndarray:
        """Return which tokens begin a word; bool [V]."""

    @abstractmethod
    def spelled(self, token: int) -> str:
        """Return the text of one token, after a space if it begins a word."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the files that `load` reads."""

    def encode_masked(self, text: str) -> list[int]:
        """Return the ids of a text in which the word ``[MASK]`` is the mask token."""
        first, *others = text.split("[MASK]")
        (ids,) = self.encode([first])
        for part in others:
            ids += [self.mask_id, *self._encode_rest(part)]
        return ids

    def _encode_rest(self, text: str) -> list[int]:
        """Return the ids of a text that continues another."""
        return self.encode([text])[0]


class SentencePieceTokenizer(Tokenizer):
    """A unigram or BPE model of the sentencepiece library.

    Attributes:
        model: The serialized model.
    """

    def __init__(self, model: bytes, source: Path | None = None) -> None:
        """Read a serialized model.

        Raises:
            BadInputError: The model is damaged.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._processor.id_to_piece(i) for i in range(len(self._processor))]
        except (RuntimeError, UnicodeDecodeError):
            raise BadInputError(
                f"{source} is not a SentencePiece model; restore it, or give another tokenizer"
            ) from None
        super().__init__(pieces, hashlib.sha256(model).hexdigest(), source)
        self.model, self._source = model, source

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode`."""
        self.special_words.note(texts)
        return self._processor.encode(list(texts), num_threads=1)

    @cached_property
    def special_words(self) -> SpecialWords:
        """See `Tokenizer.special_words`; text never matches control pieces or the unknown piece."""
        model, pieces = self._processor, enumerate(self.pieces)
        return SpecialWords([p for i, p in pieces if model.is_control(i) or model.is_unknown(i)])

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """See `Tokenizer.encode_with_offsets`; a token for a word boundary has an empty span."""
        self.special_words.note(texts)
        with self._damage_reported():
            items = self._processor.encode(list(texts), num_threads=1, return_type="offset_mapping")
        return [(item["ids"], item["offsets"]) for item in items]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        with self._damage_reported():
            return self._processor.decode([int(i) for i in ids])

    @contextmanager
    def _damage_reported(self) -> Iterator[None]:
        """Raise BadInputError if a damaged model returns bytes that are not text."""
        try:
            yield
        except UnicodeDecodeError:
            raise BadInputError(f"{self._source or 'vocabulary'} is damaged; restore it") from None

    @cached_property
    def _without_prefix(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.model + _NO_PREFIX)

    def _encode_rest(self, text: str) -> list[int]:
        # SentencePiece starts every text with a word boundary, also "." after a mask. Normalizing
        # the text after another character shows whether it begins with a space.
        if self._without_prefix.normalize(f"_{text}").startswith("_▁"):
            return self.encode([text])[0]
        return self._without_prefix.encode(text)

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
        (folder / SENTENCEPIECE_FILE).write_bytes(self.model)


class WordPieceTokenizer(Tokenizer):
    """BERT's own tokenizer, run by the Rust ``tokenizers`` library."""

    def __init__(
        self,
        pieces: list[str],
        uncased: bool,
        source: Path | None = None,
        *,
        strip_accents: bool | None = None,
        split_cjk: bool = True,
        max_word: int = MAX_WORD,
        added: AddedTokens | None = None,
    ) -> None:
        """Make the tokenizer of the vocabulary `pieces`.

        Args:
            pieces: The tokens.
            uncased: Lowercase the text.
            source: File name for messages.
            strip_accents: Remove accents; None: as `uncased`.
            split_cjk: Make each Chinese character a word.
            max_word: Longer words are [UNK].
            added: Tokens that are found in a text before it is split into words: id -> flags. Those
                at the end of `pieces` are not in the vocabulary of WordPiece.

        Raises:
            BadInputError: A token is repeated, or a special token is missing.
        """
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        if len(vocabulary) < len(pieces):
            repeated = next(p for number, p in enumerate(pieces) if vocabulary[p] != number)
            raise BadInputError(f"{source or 'vocabulary'} has {repeated!r} twice; restore it")
        self.uncased = uncased
        self.strip_accents = uncased if strip_accents is None else strip_accents
        self.split_cjk = split_cjk
        self.max_word = max_word
        self.added = added or {}
        lines = [*pieces, str(uncased)]
        # Ledgers contain the digest of the pieces and casing only.
        if list(self.config()) != ["do_lower_case"]:
            lines.append(json.dumps(self.config()))
        super().__init__(pieces, hashlib.sha256("\n".join(lines).encode()).hexdigest(), source)
        self._tokenizer = self.rust()

    def config(self) -> dict[str, Any]:
        """Return the entries of ``tokenizer_config.json`` that are not defaults."""
        config: dict[str, Any] = {"do_lower_case": self.uncased}
        if self.strip_accents != self.uncased:
            config["strip_accents"] = self.strip_accents
        if not self.split_cjk:
            config["tokenize_chinese_chars"] = False
        if self.max_word != MAX_WORD:
            config["max_input_chars_per_word"] = self.max_word
        if self.added:
            config["added_tokens_decoder"] = {str(n): self.added[n] for n in sorted(self.added)}
        return config

    def all_rules(self) -> dict[str, Any]:
        """Return `config` and the defaults, which differ between versions of transformers."""
        rules = {"strip_accents": self.strip_accents, "tokenize_chinese_chars": self.split_cjk}
        return rules | self.config()

    def rust(self, specials: Sequence[str] = ()) -> RustTokenizer:
        """Make this tokenizer in the Rust library; `specials` are then tokens in a text, too."""
        vocabulary = {piece: number for number, piece in enumerate(self._vocabulary)}
        rust = rust_wordpiece(
            vocabulary, self.uncased, self.strip_accents, self.split_cjk, self.max_word
        )
        rust.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
        for _, flags in sorted(self.added.items()):
            add = rust.add_special_tokens if flags["special"] else rust.add_tokens
            add([AddedToken(**flags)])
        return rust

    @property
    def _vocabulary(self) -> list[str]:
        """The tokens of WordPiece: all but the added ones at the end."""
        end = len(self.pieces)
        while end - 1 in self.added:
            end -= 1
        return self.pieces[:end]

    def words(self, text: str) -> list[str]:
        """Split a text into words, before they are split into pieces."""
        normalized = self._tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode`."""
        self.special_words.note(texts)
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """See `Tokenizer.encode_with_offsets`."""
        self.special_words.note(texts)
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

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
        (folder / VOCAB_FILE).write_text(
            "".join(f"{piece}\n" for piece in self._vocabulary), "utf-8"
        )
        config = {"tokenizer_class": "BertTokenizer", **self.config()}
        (folder / CONFIG_FILE).write_text(json.dumps(config) + "\n")


def load(model: Path) -> Tokenizer:
    """Load the tokenizer of a folder, run, store or RUN/checkpoints/STEP.

    Raises:
        BadInputError: There is no tokenizer, or its files are damaged or of another kind.
    """
    names = (SENTENCEPIECE_FILE, VOCAB_FILE, JSON_FILE)
    run = model.parent.parent if model.parent.name == "checkpoints" else model
    for folder in (model, model / SUBFOLDER, run / SUBFOLDER):
        if any((folder / name).is_file() for name in names):
            return _load_recorded(folder) if (folder / RECORD).is_file() else _load(folder)
    wordpiece_files.refuse_others(model)
    if not model.exists():
        raise absent(model, "give the folder of a tokenizer or model")
    is_recorded = (model / RECORD).is_file()
    hint = f"remove {model} and train it again" if is_recorded else "check the folder"
    raise BadInputError(f"{model} has neither {names[0]} nor {names[1]} nor {names[2]}; {hint}")


def _load_recorded(folder: Path) -> Tokenizer:
    """Load what train-tokenizer or extend-tokenizer wrote, and compare its digest."""
    try:
        tokenizer, digest = _load(folder), read_json(folder / RECORD).get(DIGEST)
        if digest not in (tokenizer.digest, None):
            raise BadInputError(
                f"{folder} has changed since it was trained (its digest differs); restore it"
            )
    except BadInputError as error:
        raise BadInputError(f"{error}, or remove {folder} and train it again") from None
    return tokenizer


def _load(folder: Path) -> Tokenizer:
    file = folder / SENTENCEPIECE_FILE
    if file.is_file():
        check_kind(file)
        tokenizer = SentencePieceTokenizer(file.read_bytes(), file)
        wordpiece_files.check_beside_sentencepiece(folder, tokenizer.pieces)
        return tokenizer
    return WordPieceTokenizer(**wordpiece_files.read(folder, MAX_WORD))


def rust_wordpiece(
    vocabulary: dict[str, int],
    uncased: bool,
    strip_accents: bool,
    split_cjk: bool = True,
    max_word: int = MAX_WORD,
) -> RustTokenizer:
    """Make BERT's tokenizer in the Rust library; see `WordPieceTokenizer`."""
    tokenizer = RustTokenizer(
        models.WordPiece(vocab=vocabulary, unk_token=SPECIALS[1], max_input_chars_per_word=max_word)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=split_cjk,
        strip_accents=strip_accents,
        lowercase=uncased,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _is_punctuation(piece: str) -> bool:
    return all(unicodedata.category(character)[0] in "PS" for character in piece)
