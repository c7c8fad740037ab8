"""Vocabularies: SentencePiece and WordPiece behind one interface.

A tokenizer is a folder that holds ``sentencepiece.model`` or, for WordPiece, ``vocab.txt`` (one
token per line, as google-research/bert publishes it) or ``tokenizer.json`` (of Hugging Face). How
text is cut is said by ``tokenizer_config.json`` if it has ``do_lower_case``, as in transformers, or
else by ``tokenizer.json``. A bare ``vocab.txt`` is enough: a vocabulary without capitals is an
uncased one.

Words of more than 200 characters are [UNK], as in google-research/bert. In transformers it is 100,
and so in a tokenizer read from a ``tokenizer.json`` that says so, if no ``vocab.txt`` is beside it.
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
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers import tokenizer_json
from pipelines.folders import absent
from pipelines.models.formats.config_json import read_json

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

SENTENCEPIECE_FILE = "sentencepiece.model"
VOCAB_FILE = "vocab.txt"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
# What a tokenizer was learned from, so that the same command again finds its work done; and its
# digest there, because a vocabulary with a changed bit is a vocabulary.
RECORD, DIGEST = "training.json", "digest"
# Where a run and a store keep their copy.
SUBFOLDER = "tokenizer"

# Token ids, and of each its first and one-past-last character in the text.
Encoded = tuple[list[int], list[tuple[int, int]]]

# google-research/bert: a longer word is [UNK].
MAX_WORD = 200
# Merged into a serialised model, as protocol buffers are by being joined:
# normalizer_spec { add_dummy_prefix: false }
_NO_PREFIX = b"\x1a\x02\x18\x00"


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
    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids of each text as `encode` gives them, and where their characters begin and end."""

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
        first, *others = text.split("[MASK]")
        (ids,) = self.encode([first])
        for part in others:
            ids += [self.mask_id, *self._encode_on(part)]
        return ids

    def _encode_on(self, text: str) -> list[int]:
        """Ids of a text that follows on something."""
        return self.encode([text])[0]


class SentencePieceTokenizer(Tokenizer):
    """A unigram or BPE model of the sentencepiece library.

    Attributes:
        model: Serialised.
    """

    def __init__(self, model: bytes, source: Path | None = None) -> None:
        """Reads a serialised model.

        Raises:
            BadInputError: It is not one.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._processor.id_to_piece(i) for i in range(len(self._processor))]
        except (RuntimeError, UnicodeDecodeError):
            raise BadInputError(f"{source} is not a SentencePiece model; restore it") from None
        super().__init__(pieces, hashlib.sha256(model).hexdigest(), source)
        self.model, self._source = model, source

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode`."""
        return self._processor.encode(list(texts), num_threads=1)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """See `Tokenizer.encode_with_offsets`; a boundary that is a token is of no character."""
        with self._spelling():
            found = self._processor.encode(list(texts), num_threads=1, return_type="offset_mapping")
        return [(one["ids"], one["offsets"]) for one in found]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        with self._spelling():
            return self._processor.decode([int(i) for i in ids])

    @contextmanager
    def _spelling(self) -> Iterator[None]:
        """Raises BadInputError where what a damaged model makes of a text is none."""
        try:
            yield
        except UnicodeDecodeError:
            raise BadInputError(f"{self._source or 'vocabulary'} is damaged; restore it") from None

    @cached_property
    def _without_prefix(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.model + _NO_PREFIX)

    def _encode_on(self, text: str) -> list[int]:
        # SentencePiece starts every text with a word boundary, also "." after a mask. What it takes
        # for a space is seen by putting the text behind a character.
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
    ) -> None:
        """Tokenizer of the vocabulary `pieces`.

        Args:
            pieces: The tokens.
            uncased: Lower-case the text.
            source: For messages.
            strip_accents: Remove accents; None as `uncased`.
            split_cjk: Make each Chinese character a word.
            max_word: Longer words are [UNK].

        Raises:
            BadInputError: A token stands there twice or a special token is missing.
        """
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        if len(vocabulary) < len(pieces):
            twice = next(p for number, p in enumerate(pieces) if vocabulary[p] != number)
            raise BadInputError(f"{source or 'vocabulary'} has the token {twice!r} twice")
        self.uncased = uncased
        self.strip_accents = uncased if strip_accents is None else strip_accents
        self.split_cjk = split_cjk
        self.max_word = max_word
        lines = [*pieces, str(uncased)]
        if list(self.config()) != ["do_lower_case"]:  # stores know the digest without the others
            lines.append(json.dumps(self.config()))
        super().__init__(pieces, hashlib.sha256("\n".join(lines).encode()).hexdigest(), source)
        self._tokenizer = rust_wordpiece(
            vocabulary, uncased, self.strip_accents, split_cjk, max_word
        )

    def config(self) -> dict[str, Any]:
        """The entries of ``tokenizer_config.json`` that decide the ids; defaults are left out."""
        config: dict[str, Any] = {"do_lower_case": self.uncased}
        if self.strip_accents != self.uncased:
            config["strip_accents"] = self.strip_accents
        if not self.split_cjk:
            config["tokenize_chinese_chars"] = False
        if self.max_word != MAX_WORD:
            config["max_input_chars_per_word"] = self.max_word
        return config

    def words(self, text: str) -> list[str]:
        """The words of a text, before they are cut into pieces."""
        normal = self._tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode`."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """See `Tokenizer.encode_with_offsets`."""
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
        (folder / VOCAB_FILE).write_text("".join(f"{piece}\n" for piece in self.pieces), "utf-8")
        config = {"tokenizer_class": "BertTokenizer", **self.config()}
        (folder / CONFIG_FILE).write_text(json.dumps(config) + "\n")


def load(model: Path) -> Tokenizer:
    """The tokenizer in a folder, or in the run, store or RUN/checkpoints/STEP that it is.

    Raises:
        BadInputError: There is none, or its files are damaged or of another kind.
    """
    names = (SENTENCEPIECE_FILE, VOCAB_FILE, JSON_FILE)
    run = model.parent.parent if model.parent.name == "checkpoints" else model
    for folder in (model, model / SUBFOLDER, run / SUBFOLDER):
        if any((folder / name).is_file() for name in names):
            return _learned(folder) if (folder / RECORD).is_file() else _load(folder)
    if not model.exists():
        raise absent(model, "give the folder of a tokenizer or model")
    again = f"; remove {model} and learn again" if (model / RECORD).is_file() else ""
    raise BadInputError(f"{model} has neither {names[0]} nor {names[1]} nor {names[2]}{again}")


def _learned(folder: Path) -> Tokenizer:
    """The tokenizer in a folder that train-tokenizer or extend-tokenizer wrote, if it is whole."""
    try:
        found, known = _load(folder), read_json(folder / RECORD).get(DIGEST)
        if known not in (found.digest, None):
            raise BadInputError(f"{folder} is not what was learned (its digest differs)")
    except BadInputError as error:
        raise BadInputError(f"{error}; remove {folder} and learn again") from None
    return found


def _load(folder: Path) -> Tokenizer:
    file = folder / SENTENCEPIECE_FILE
    if file.is_file():
        return SentencePieceTokenizer(file.read_bytes(), file)
    return _load_wordpiece(folder)


def _load_wordpiece(folder: Path) -> WordPieceTokenizer:
    file, config = folder / JSON_FILE, folder / CONFIG_FILE
    known = tokenizer_json.read(file) if file.is_file() else None
    given = read_json(config) if config.is_file() else {}
    if "Japanese" in str(given.get("tokenizer_class")):
        raise BadInputError(
            f"{config}: {given['tokenizer_class']} cuts words with a dictionary of Japanese, which"
            " cannot be done here; learn a tokenizer with train-tokenizer"
        )
    source = folder / VOCAB_FILE if (folder / VOCAB_FILE).is_file() else file
    pieces = _read_pieces(folder, known)
    options: dict[str, Any] = {
        "do_lower_case": not _has_capitals(pieces),
        "max_input_chars_per_word": MAX_WORD,
    }
    if known is not None and given.get("do_lower_case") is None:
        options |= known.config
    if known is not None:
        found = known.config["max_input_chars_per_word"]
        options["max_input_chars_per_word"] = found if source == file else MAX_WORD
    for key, kind in tokenizer_json.CONFIG_KEYS.items():
        # null stands for "as do_lower_case" in strip_accents, for nothing elsewhere.
        if key in given and (given[key] is not None or key == "strip_accents"):
            options[key] = tokenizer_json.value(given, key, kind, config)
    return WordPieceTokenizer(
        pieces,
        options["do_lower_case"],
        source,
        strip_accents=options.get("strip_accents"),
        split_cjk=options.get("tokenize_chinese_chars", True),
        max_word=options["max_input_chars_per_word"],
    )


def _read_pieces(folder: Path, known: tokenizer_json.WordPieceFile | None) -> list[str]:
    file = folder / VOCAB_FILE
    try:
        lines = file.read_text("utf-8").removesuffix("\n").split("\n") if file.is_file() else None
    except ValueError as error:
        raise BadInputError(f"{file}: {error}; restore the file") from None
    pieces = [line.rstrip("\r") for line in lines or ()]
    if known is None:
        return pieces
    if lines is not None and pieces not in (known.pieces, known.pieces[: -known.added or None]):
        raise BadInputError(
            f"{file} and {JSON_FILE} beside it hold different vocabularies; remove the wrong one"
        )
    return known.pieces


def rust_wordpiece(
    vocabulary: dict[str, int],
    uncased: bool,
    strip_accents: bool,
    split_cjk: bool = True,
    max_word: int = MAX_WORD,
) -> RustTokenizer:
    """BERT's tokenizer in the Rust library; see `WordPieceTokenizer`."""
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


def _has_capitals(pieces: list[str]) -> bool:
    return any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
