"""Read ``tokenizer.json`` of Hugging Face's tokenizers library, if it is of BERT's kind.

The files come from others, so every value is checked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.json_files import read_json

# Keys of tokenizer_config.json that determine the ids -> type.
CONFIG_KEYS: dict[str, type] = {
    "do_lower_case": bool,
    "strip_accents": bool,
    "tokenize_chinese_chars": bool,
    "max_input_chars_per_word": int,
}

# JSON can express half a surrogate pair.
_NOT_IN_A_LINE = re.compile(r"[\n\r\ud800-\udfff]")
_REMEDY = "use the tokenizer of a BERT checkpoint, or train one with train-tokenizer"


@dataclass(frozen=True)
class WordPieceFile:
    """The content of a ``tokenizer.json``.

    Attributes:
        pieces: The tokens, added ones last; the index is the id.
        added: How many of them were added to the vocabulary of the model.
        config: Rules of tokenization, under the keys of ``tokenizer_config.json``.
    """

    pieces: list[str]
    added: int
    config: dict[str, Any]


def value(data: dict[str, Any], key: str, kind: type, file: Path) -> Any:
    """Return ``data[key]``, or None if it is absent or null.

    Raises:
        BadInputError: It is not of the type `kind`, or a number out of range.
    """
    entry = data.get(key)
    if entry is None:
        return None
    if type(entry) is not kind:  # isinstance accepts a bool as an int
        expected = {bool: "true or false", int: "a whole number"}.get(kind, "an object")
        raise BadInputError(f"{file}: {key} must be {expected}, not {json.dumps(entry)[:60]}")
    if isinstance(entry, int) and kind is int and not 0 < entry < 1 << 31:
        raise BadInputError(f"{file}: {key} must be positive and below 2^31, not {entry}")
    return entry


def read(file: Path) -> WordPieceFile:
    """Read a file of a WordPiece model with BERT's normalizer and pre-tokenizer.

    Raises:
        BadInputError: It is of another kind, or damaged.
    """
    data = read_json(file)
    model, normalizer, pre_tokenizer = (
        value(data, part, dict, file) or {} for part in ("model", "normalizer", "pre_tokenizer")
    )
    # The first versions of the format do not name the model.
    default = "WordPiece" if "max_input_chars_per_word" in model else None
    _expect(file, "model", model.get("type", default), "WordPiece")
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
    missing = [key for key in config if config[key] is None and key != "strip_accents"]
    if missing:
        raise BadInputError(f"{file} has no {missing[0]}; {_REMEDY}")
    vocabulary = dict(value(model, "vocab", dict, file) or {})
    size = len(vocabulary)
    _add_special(vocabulary, data.get("added_tokens"), file)
    return WordPieceFile(_in_order(vocabulary, file), len(vocabulary) - size, config)


def _expect(file: Path, what: str, actual: object, expected: object) -> None:
    if actual != expected:
        text = "missing" if actual is None else json.dumps(actual)[:60]
        raise BadInputError(
            f"{file}: {what} is {text}, only {json.dumps(expected)} is supported; {_REMEDY}"
        )


def _add_special(vocabulary: dict[str, Any], added: Any, file: Path) -> None:
    """Put the added special tokens into `vocabulary`.

    Hugging Face matches an added token anywhere in a text, also inside a word, before WordPiece
    runs. A special token in a text is plain text here; other added tokens are rejected, because
    they would change the ids of plain text.
    """
    if added is None:
        return
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise BadInputError(f"{file}: added_tokens is not a list of objects; restore the file")
    for token in added:
        content, number = token.get("content"), token.get("id")
        if not isinstance(content, str):
            raise BadInputError(f"{file}: an added token has no content; restore the file")
        if token.get("special") is not True:
            raise BadInputError(
                f"{file}: the added token {content!r} is not special; such tokens match inside"
                " words and are not supported. Remove it from added_tokens"
            )
        if vocabulary.setdefault(content, number) != number:
            raise BadInputError(
                f"{file}: the added token {content!r} has the id {number},"
                f" in the vocabulary {vocabulary[content]}; restore the file"
            )


def _in_order(vocabulary: dict[str, Any], file: Path) -> list[str]:
    pieces: list[str | None] = [None] * len(vocabulary)
    for piece, number in vocabulary.items():
        if _NOT_IN_A_LINE.search(piece):
            raise BadInputError(
                f"{file}: the token {piece!r} cannot be a line of vocab.txt; remove it"
            )
        if type(number) is not int or not 0 <= number < len(pieces) or pieces[number] is not None:
            raise BadInputError(
                f"{file}: the id of {piece!r} is {json.dumps(number)[:60]}; the {len(pieces)}"
                f" tokens must have the ids 0 to {len(pieces) - 1}, each once. Restore the file"
            )
        pieces[number] = piece
    return [piece for piece in pieces if piece is not None]
