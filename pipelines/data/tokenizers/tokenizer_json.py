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
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

# A token that is found in a text before WordPiece runs: ``content`` and the flags of the library.
Flags = dict[str, Any]
AddedTokens = dict[int, Flags]


@dataclass(frozen=True)
class WordPieceFile:
    """The content of a ``tokenizer.json``.

    Attributes:
        pieces: The tokens of the model; the index is the id.
        added: The added tokens, in the vocabulary or behind it.
        config: Rules of tokenization, under the keys of ``tokenizer_config.json``.
    """

    pieces: list[str]
    added: AddedTokens
    config: dict[str, Any]

    @property
    def with_added(self) -> list[str]:
        """The tokens of the model and the added ones behind them."""
        more = sorted(number for number in self.added if number >= len(self.pieces))
        return self.pieces + [self.added[number]["content"] for number in more]


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
        _single(value(data, part, dict, file) or {}, f"{part}s")
        for part in ("model", "normalizer", "pre_tokenizer")
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
        raise BadInputError(f"{file} has no {missing[0]}; {remedy(file.parent)}")
    vocabulary = value(model, "vocab", dict, file) or {}
    added = _added_tokens(data.get("added_tokens"), file)
    everything = dict(vocabulary)
    for number, token in added.items():
        text = token["content"]
        if everything.setdefault(text, number) != number:
            raise BadInputError(
                f"{file}: the added token {text!r} has the id {number},"
                f" in the vocabulary {vocabulary[text]}; restore the file"
            )
    pieces = _in_order(everything, file)
    while pieces and pieces[-1] not in vocabulary:
        pieces.pop()
    return WordPieceFile(pieces, added, config)


def _single(part: dict[str, Any], members: str) -> dict[str, Any]:
    """Return the only member of a sequence; anything else as it is."""
    inner = part.get(members)
    if part.get("type") == "Sequence" and isinstance(inner, list) and len(inner) == 1:
        return inner[0] if isinstance(inner[0], dict) else part
    return part


def remedy(folder: Path) -> str:
    """Return the remedy for a tokenizer of another kind; weights need their own tokenizer."""
    if (folder / "config.json").is_file():
        return (
            "the model in this folder needs this tokenizer, which cannot be read; use"
            " transformers for it, or another model with BERT's WordPiece tokenizer"
        )
    return _REMEDY


def _expect(file: Path, what: str, actual: object, expected: object) -> None:
    if actual != expected:
        text = "missing" if actual is None else json.dumps(actual)[:60]
        raise BadInputError(
            f"{file}: {what} is {text}, only {json.dumps(expected)} is supported;"
            f" {remedy(file.parent)}"
        )


def flags(token: Any, file: Path) -> Flags:
    """Return an added token with all flags; those that are missing have the library's defaults.

    Raises:
        BadInputError: It has no content, or a flag is not true or false.
    """
    text = token.get("content") if isinstance(token, dict) else None
    if not isinstance(text, str) or not text:
        raise BadInputError(f"{file}: an added token has no content; restore the file")
    if _NOT_IN_A_LINE.search(text):
        raise BadInputError(f"{file}: the token {text!r} cannot be a line of vocab.txt; remove it")
    stated = {name: value(token, name, bool, file) for name in _FLAGS}
    default = {"normalized": not stated["special"]}
    return {"content": text} | {
        name: default.get(name, False) if flag is None else flag for name, flag in stated.items()
    }


def put(added: AddedTokens, number: Any, token: Flags, file: Path) -> None:
    """Add a token under its id; the flags of the first file that names it remain.

    Raises:
        BadInputError: The id is not a number, or belongs to another token.
    """
    text = token["content"]
    if type(number) is not int or number < 0:
        raise BadInputError(f"{file}: the id of the added token {text!r} is {number!r:.60}")
    others = {id_ for id_, existing in added.items() if existing["content"] == text} - {number}
    if others or added.get(number, token)["content"] != text:
        raise BadInputError(
            f"{file}: the added token {text!r} and the id {number} do not belong together in all"
            " files of this folder; restore them"
        )
    added.setdefault(number, token)


def _added_tokens(tokens: Any, file: Path) -> AddedTokens:
    if tokens is None:
        return {}
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise BadInputError(f"{file}: added_tokens is not a list of objects; restore the file")
    added: AddedTokens = {}
    for token in tokens:
        put(added, token.get("id"), flags(token, file), file)
    return added


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
