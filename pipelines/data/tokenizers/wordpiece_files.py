"""Read the files of a WordPiece tokenizer, as transformers does.

The vocabulary is ``tokenizer.json`` or ``vocab.txt``. Added tokens follow it: those of
``tokenizer.json``, of ``added_tokens_decoder`` in ``tokenizer_config.json`` and, in folders of
older versions, of ``added_tokens.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import check_kind
from pipelines.data.tokenizers import tokenizer_json
from pipelines.data.tokenizers.config_fields import (
    MORE_SPECIALS,
    NAMED_SPECIALS,
    SPECIAL_TOKENS_FIELDS,
    TOKENIZER_FIELDS,
    content,
)
from pipelines.data.tokenizers.tokenizer_json import AddedTokens, Flags
from pipelines.json_fields import check_fields
from pipelines.json_files import read_json

VOCAB_FILE = "vocab.txt"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

# Vocabularies of XLM-R, ALBERT, DeBERTa, Llama, RoBERTa and BERTweet.
_OTHERS = (
    *("sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model"),
    *("vocab.json", "merges.txt", "bpe.codes"),
)
_SAVE_AGAIN = (
    "save the tokenizer again with transformers: AutoTokenizer.from_pretrained(DIR)"
    ".save_pretrained(DIR)"
)


def read(folder: Path, max_word: int) -> dict[str, Any]:
    """Return the arguments of `WordPieceTokenizer` for a folder.

    Args:
        folder: With a vocabulary.
        max_word: The longest word, unless the files state it.

    Raises:
        BadInputError: A file is damaged, of another kind, or contradicts another.
    """
    file, config = folder / JSON_FILE, folder / CONFIG_FILE
    json_file = tokenizer_json.read(file) if file.is_file() else None
    entries = read_json(config) if config.is_file() else {}
    _check_entries(entries, config)
    source = folder / VOCAB_FILE if (folder / VOCAB_FILE).is_file() else file
    pieces = _read_pieces(folder, json_file)
    added = _read_added(folder, entries, json_file, pieces)
    options: dict[str, Any] = {
        "do_lower_case": not _has_capitals(pieces),
        "max_input_chars_per_word": max_word,
    }
    if json_file is not None and entries.get("do_lower_case") is None:
        options |= json_file.config
    if json_file is not None:
        stated = json_file.config["max_input_chars_per_word"]
        options["max_input_chars_per_word"] = stated if source == file else max_word
    for key, kind in tokenizer_json.CONFIG_KEYS.items():
        # null means "as do_lower_case" for strip_accents; elsewhere it is ignored.
        if key in entries and (entries[key] is not None or key == "strip_accents"):
            options[key] = tokenizer_json.value(entries, key, kind, config)
    return {
        "pieces": _extended(pieces, added, folder),
        "uncased": options["do_lower_case"],
        "source": source,
        "strip_accents": options.get("strip_accents"),
        "split_cjk": options.get("tokenize_chinese_chars", True),
        "max_word": options["max_input_chars_per_word"],
        "added": {number: token for number, token in added.items() if not _is_bert(token)},
    }


def check_beside_sentencepiece(folder: Path, pieces: list[str]) -> None:
    """Check the files beside a SentencePiece model, which has no added tokens.

    Raises:
        BadInputError: They are not of BERT, or add tokens.
    """
    config = folder / CONFIG_FILE
    entries = read_json(config) if config.is_file() else {}
    _check_entries(entries, config)
    for number, token in _read_added(folder, entries, None, pieces).items():
        if number >= len(pieces) or pieces[number] != token["content"]:
            raise BadInputError(
                f"{folder}: the added token {token['content']!r:.60} is not a piece of the"
                " SentencePiece model; only WordPiece tokenizers can have added tokens"
            )


def refuse_others(folder: Path) -> None:
    """Report the files of a tokenizer of another kind.

    Raises:
        BadInputError: There is one.
    """
    for name in _OTHERS:
        if (folder / name).is_file():
            raise BadInputError(
                f"{folder / name} is the vocabulary of another kind of tokenizer;"
                f" {tokenizer_json.remedy(folder)}"
            )


def _check_entries(entries: Mapping[str, Any], config: Path) -> None:
    """Check the keys of ``tokenizer_config.json``, except names of special tokens."""
    named = entries.get("model_specific_special_tokens")
    named = named if isinstance(named, dict) else {}
    others = {
        key: value
        for key, value in entries.items()
        if key in TOKENIZER_FIELDS or not (key.endswith("_token") or key in named)
    }
    check_fields(others, TOKENIZER_FIELDS, config)


def _is_bert(token: Flags) -> bool:
    return token["content"] in NAMED_SPECIALS.values()


def _read_pieces(folder: Path, json_file: tokenizer_json.WordPieceFile | None) -> list[str]:
    """Return the vocabulary, without added tokens."""
    file = folder / VOCAB_FILE
    check_kind(file)
    try:
        lines = file.read_text("utf-8").removesuffix("\n").split("\n") if file.is_file() else None
    except ValueError as error:
        raise BadInputError(f"{file}: {error}; restore the file") from None
    pieces = [line.rstrip("\r") for line in lines or ()]
    if lines is not None:
        _refuse_repeated(pieces, file)
    if json_file is None:
        return pieces
    if lines is not None and pieces not in (json_file.pieces, json_file.with_added):
        raise BadInputError(
            f"{file} and {JSON_FILE} beside it have different vocabularies; remove the wrong one"
        )
    return json_file.pieces


def _refuse_repeated(pieces: list[str], file: Path) -> None:
    last = {piece: number for number, piece in enumerate(pieces, 1)}
    for number, piece in enumerate(pieces, 1):
        if last[piece] == number:
            continue
        if not piece:
            raise BadInputError(
                f"{file}: lines {number} and {last[piece]} are empty; remove empty lines at the"
                f" end, and write [empty{number}] in others, because the line is the id"
            )
        raise BadInputError(
            f"{file}: lines {number} and {last[piece]} have the same token {piece!r:.60};"
            f" write [repeated{number}] in line {number}: the last one is used elsewhere, and"
            " the line is the id"
        )


def _read_added(
    folder: Path,
    entries: Mapping[str, Any],
    json_file: tokenizer_json.WordPieceFile | None,
    pieces: list[str],
) -> AddedTokens:
    """Return the tokens that are found in a text before WordPiece runs: id -> its flags.

    Raises:
        BadInputError: Two files give a token different ids, or an entry is not a token.
    """
    config, more = folder / CONFIG_FILE, folder / SPECIAL_TOKENS_FILE
    special_tokens = read_json(more) if more.is_file() else {}
    check_fields(special_tokens, SPECIAL_TOKENS_FIELDS, more)
    added = dict(json_file.added) if json_file is not None else {}
    decoder = tokenizer_json.value(dict(entries), "added_tokens_decoder", dict, config)
    for key, token in (decoder or {}).items():
        number = int(key) if key.isdecimal() else -1
        tokenizer_json.put(added, number, tokenizer_json.flags(token, config), config)
    specials = [*_specials(entries, config), *_specials(special_tokens, more)]
    file = folder / ADDED_TOKENS_FILE
    for text, number in (read_json(file) if file.is_file() else {}).items():
        stated = {"special": text in NAMED_SPECIALS.values()}
        stated = next((s.flags for s in specials if s.text == text and s.flags), stated)
        token = tokenizer_json.flags({"content": text, **stated}, file)
        tokenizer_json.put(added, number, token, file)
    known = {token["content"] for token in added.values()}
    ids = {piece: number for number, piece in enumerate(pieces)}
    for text, source in {special.text: special.source for special in specials}.items():
        if text in known or text in NAMED_SPECIALS.values():
            continue
        if text not in ids:
            raise BadInputError(f"{source}: the special token {text!r} has no id; {_SAVE_AGAIN}")
        token = tokenizer_json.flags({"content": text, "special": True}, source)
        tokenizer_json.put(added, ids[text], token, source)
    return added


class _Special(NamedTuple):
    """A special token that a file names.

    Attributes:
        text: The token.
        source: The file.
        flags: Those that transformers gives the token if ``added_tokens.json`` has its id; empty =
            it stays an ordinary added token. Older versions had other flags.
    """

    text: str
    source: Path
    flags: dict[str, bool]


def _specials(entries: Mapping[str, Any], source: Path) -> Iterator[_Special]:
    """Yield further special tokens of a file."""
    for name, value in entries.items():
        is_other = name not in TOKENIZER_FIELDS and name.endswith("_token")
        if name not in MORE_SPECIALS and not (is_other and isinstance(value, str | dict)):
            continue
        tokens = value if isinstance(value, list) else [value]
        if isinstance(value, dict) and "content" not in value:
            tokens = list(value.values())
        is_named = is_other or (isinstance(value, dict) and "content" not in value)
        flags = {"special": True, "normalized": is_named}
        if name == "additional_special_tokens" and source.name == SPECIAL_TOKENS_FILE:
            flags = {}
        for token in tokens:
            text = content(token)
            if isinstance(text, str):
                yield _Special(text, source, flags)
            elif text is not None:
                raise BadInputError(f"{source}: {name} is not a token or a list; {_SAVE_AGAIN}")


def _extended(pieces: list[str], added: AddedTokens, folder: Path) -> list[str]:
    """Return the vocabulary followed by the added tokens that it lacks.

    Raises:
        BadInputError: The ids do not follow each other, or contradict the vocabulary.
    """
    pieces = list(pieces)
    ids = {piece: number for number, piece in enumerate(pieces)}
    for number, token in sorted(added.items()):
        text = token["content"]
        if number == len(pieces) and text not in ids:
            pieces.append(text)
        elif ids.get(text) != number:
            existing = f"in the vocabulary {ids[text]}" if text in ids else "not the next one"
            raise BadInputError(
                f"{folder}: the added token {text!r:.60} has the id {number}, {existing};"
                f" {_SAVE_AGAIN}"
            )
    return pieces


def _has_capitals(pieces: list[str]) -> bool:
    return any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
