"""Reads ``tokenizer.json``, the file of Hugging Face's tokenizers library, where it is BERT's kind.

Others make these files: nothing in them is believed before it is checked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.models.formats.config_json import read_json

# Keys of tokenizer_config.json that decide the ids -> type.
CONFIG_KEYS: dict[str, type] = {
    "do_lower_case": bool,
    "strip_accents": bool,
    "tokenize_chinese_chars": bool,
    "max_input_chars_per_word": int,
}

# JSON can spell half a surrogate pair.
_NO_LINE = re.compile(r"[\n\r\ud800-\udfff]")
_REMEDY = "take the tokenizer of a BERT checkpoint, or learn one with train-tokenizer"


@dataclass(frozen=True)
class WordPieceFile:
    """What a ``tokenizer.json`` says.

    Attributes:
        pieces: The tokens, added ones last; the index is the id.
        added: How many were added to the vocabulary that the model had.
        config: How text is cut, under the keys of ``tokenizer_config.json``.
    """

    pieces: list[str]
    added: int
    config: dict[str, Any]


def value(data: dict[str, Any], key: str, kind: type, file: Path) -> Any:
    """``data[key]``, or None where it is absent or null.

    Raises:
        BadInputError: It is not of the type `kind`, or a number out of reason.
    """
    found = data.get(key)
    if found is None:
        return None
    if type(found) is not kind:  # a bool is an int to isinstance
        wanted = {bool: "true or false", int: "a whole number"}.get(kind, "an object")
        raise BadInputError(f"{file}: {key} must be {wanted}, not {json.dumps(found)[:60]}")
    if isinstance(found, int) and kind is int and not 0 < found < 1 << 31:
        raise BadInputError(f"{file}: {key} must be positive and below 2^31, not {found}")
    return found


def read(file: Path) -> WordPieceFile:
    """Reads a file of the model WordPiece with BERT's normaliser and pre-tokeniser.

    Raises:
        BadInputError: It is of another kind, or damaged.
    """
    data = read_json(file)
    model, normalizer, pre_tokenizer = (
        value(data, part, dict, file) or {} for part in ("model", "normalizer", "pre_tokenizer")
    )
    # Files of the first versions do not name the model.
    unnamed = "WordPiece" if "max_input_chars_per_word" in model else None
    _expect(file, "model", model.get("type", unnamed), "WordPiece")
    _expect(file, "normalizer", normalizer.get("type"), "BertNormalizer")
    _expect(file, "pre_tokenizer", pre_tokenizer.get("type"), "BertPreTokenizer")
    _expect(file, "clean_text", normalizer.get("clean_text"), True)
    _expect(file, "prefix inside words", model.get("continuing_subword_prefix"), "##")
    _expect(file, "unknown token", model.get("unk_token"), "[UNK]")
    config = {
        "do_lower_case": value(normalizer, "lowercase", bool, file),
        "strip_accents": value(normalizer, "strip_accents", bool, file),
        "tokenize_chinese_chars": value(normalizer, "handle_chinese_chars", bool, file),
        "max_input_chars_per_word": value(model, "max_input_chars_per_word", int, file),
    }
    lacking = [key for key in config if config[key] is None and key != "strip_accents"]
    if lacking:
        raise BadInputError(f"{file} does not say {lacking[0]}; {_REMEDY}")
    vocabulary = dict(value(model, "vocab", dict, file) or {})
    size = len(vocabulary)
    _add_special(vocabulary, data.get("added_tokens"), file)
    return WordPieceFile(_in_order(vocabulary, file), len(vocabulary) - size, config)


def _expect(file: Path, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        named = "missing" if found is None else json.dumps(found)[:60]
        raise BadInputError(
            f"{file}: {what} is {named}, only {json.dumps(wanted)} can be read; {_REMEDY}"
        )


def _add_special(vocabulary: dict[str, Any], added: Any, file: Path) -> None:
    """Puts the special tokens that were added into `vocabulary`.

    Hugging Face finds an added token anywhere in a text, also inside a word, before WordPiece sees
    it. Special ones in a text are plain text here; others would change the ids of plain text.
    """
    if added is None:
        return
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise BadInputError(f"{file}: added_tokens is not a list of objects; restore the file")
    for token in added:
        content, number = token.get("content"), token.get("id")
        if not isinstance(content, str):
            raise BadInputError(f"{file}: an entry of added_tokens has no content")
        if token.get("special") is not True:
            raise BadInputError(
                f"{file}: the added token {content!r} is not a special one and would be cut out of"
                " words, which is not done here; remove it from added_tokens"
            )
        if vocabulary.setdefault(content, number) != number:
            raise BadInputError(
                f"{file}: the added token {content!r} has the id {number},"
                f" in the vocabulary {vocabulary[content]}; restore the file"
            )


def _in_order(vocabulary: dict[str, Any], file: Path) -> list[str]:
    pieces: list[str | None] = [None] * len(vocabulary)
    for piece, number in vocabulary.items():
        if _NO_LINE.search(piece):
            raise BadInputError(f"{file}: the token {piece!r} cannot be a line of vocab.txt")
        if type(number) is not int or not 0 <= number < len(pieces) or pieces[number] is not None:
            raise BadInputError(
                f"{file}: the id of {piece!r} is {json.dumps(number)[:60]}; the {len(pieces)}"
                " tokens need the ids from 0 on, each once; restore the file"
            )
        pieces[number] = piece
    return [piece for piece in pieces if piece is not None]
