"""Write a tokenizer that ``transformers.AutoTokenizer.from_pretrained`` opens.

The ids are the same, with these exceptions:

* The name of a special token in a text, such as "[SEP]" or, in SentencePiece models with such
  pieces, "</s>", is plain text here, as in google-research/bert. In transformers it is the token,
  unless ``split_special_tokens`` is true: then the ids are those of `Tokenizer.encode`, otherwise
  "[MASK]" is as in `Tokenizer.encode_masked`.
* WordPiece: ``BertTokenizer`` of transformers 5 encodes words of more than 100 characters as [UNK],
  regardless of ``tokenizer.json``; the tokenizers library itself follows the file.
* SentencePiece: see `_normalizers`.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import sentencepiece
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers.config_fields import NAMED_SPECIALS
from pipelines.data.tokenizers.tokenizer import (
    CONFIG_FILE,
    JSON_FILE,
    SPECIALS,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)
from pipelines.protobuf import fields

# Numbers of the types of models and pieces in sentencepiece_model.proto.
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
# Unicode reserves this character: no text and no rule of SentencePiece contains it.
_WALL = "\ufdd0"
# The rules of SentencePiece remove this character.
_GAP = "\x01"


def export(
    tokenizer: Tokenizer, folder: Path, max_length: int, *, split_specials: bool = False
) -> None:
    """Write the files; `load` reads the same tokenizer from them.

    Args:
        tokenizer: The tokenizer.
        folder: Created if it does not exist.
        max_length: Maximum length of a sequence, [CLS] and [SEP] included.
        split_specials: Names of special tokens in a text are plain text in transformers, too; for
            models that fill no masks.

    Raises:
        BadInputError: ``tokenizer.json`` cannot express the rules of this SentencePiece model.
    """
    config: dict[str, Any]
    if isinstance(tokenizer, WordPieceTokenizer):
        rust = tokenizer.rust(SPECIALS)
        config = {"tokenizer_class": "BertTokenizer", **tokenizer.all_rules()}
    else:
        model = _Model(cast(SentencePieceTokenizer, tokenizer).model)
        rust = _sentencepiece(model)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            # The rules are those of tokenizer.json; these describe them.
            "do_lower_case": model.is_uncased,
            "strip_accents": False,
            "tokenize_chinese_chars": False,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        }
    config |= {"model_max_length": max_length, "split_special_tokens": split_specials}
    config |= NAMED_SPECIALS
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls_id), ("[SEP]", tokenizer.sep_id)],
    )
    tokenizer.save(folder)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / JSON_FILE).write_text(rust.to_str(pretty=True) + "\n", "utf-8")


def _sentencepiece(model: _Model) -> RustTokenizer:
    model.check()
    if model.kind == _UNIGRAM:
        scores = [(piece, score) for piece, score, _ in model.pieces]
        unknown = next(i for i, (*_, kind) in enumerate(model.pieces) if kind == _UNKNOWN)
        rust = RustTokenizer(models.Unigram(scores, unk_id=unknown, byte_fallback=False))
    else:
        vocabulary = {piece: number for number, (piece, *_) in enumerate(model.pieces)}
        rust = RustTokenizer(
            models.BPE(vocabulary, _merges(model), unk_token=SPECIALS[1], fuse_unk=True)
        )
    rust.normalizer = normalizers.Sequence(_normalizers(model))
    # One word boundary at the start; the whole text is split at once, as in SentencePiece.
    shape: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "first", "split": False}
    rust.pre_tokenizer = pre_tokenizers.Metaspace(**shape)
    specials = [piece for piece, _, kind in model.pieces if kind != _NORMAL]
    if model.kind == _UNIGRAM:
        # Unigram finds these pieces in a text, unless they are cut after their first character.
        names = "|".join(f"{re.escape(p[0])}(?={re.escape(p[1:])})" for p in specials if p[1:])
        cut = pre_tokenizers.Split(Regex(names), "merged_with_previous")
        rust.pre_tokenizer = pre_tokenizers.Sequence([rust.pre_tokenizer, cut])
    rust.decoder = decoders.Metaspace(**shape)
    rust.add_special_tokens([AddedToken(p, special=True, normalized=False) for p in specials])
    return rust


def _merges(model: _Model) -> list[tuple[str, str]]:
    """Restore the merges of BPE, in order, from the pieces and scores of SentencePiece."""
    pieces = {piece for piece, _, kind in model.pieces if kind == _NORMAL}
    in_order = sorted((-score, piece) for piece, score, kind in model.pieces if kind == _NORMAL)
    return [
        (piece[:cut], piece[cut:])
        for _, piece in in_order
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]


def _normalizers(model: _Model) -> list[normalizers.Normalizer]:
    """Express the normalization of SentencePiece with the tokenizers library.

    SentencePiece replaces the longest sequence of characters for which it has a rule.
    ``Precompiled`` has the same rules, but applies the shortest one to a character with accents,
    and drops the other accents: "E" + acute would become "e". Therefore it receives one character
    at a time (`_GAP`), and NFC, before and after it, replaces the longer rules. NFC composes more
    than they do (accents in any order; with letters that have an accent; with the end of a
    ligature) and reorders accents: `_WALL` separates characters that no rule composes.

    Remaining differences: accents on symbols for a capital letter, such as the Roman numeral one
    with a dot above, which are lowercased before they are composed; control characters directly
    after a special token; and U+FDD0, which is removed.
    """
    replace = normalizers.Replace
    accent = _one_of(_accents())
    # NFC composes one accent at a time, because a gap follows it; no letter has more than three.
    compose = [
        replace(Regex(f"(?<={accent})(?={accent})"), _GAP),
        normalizers.NFC(),
        replace(_GAP, ""),
    ] * 3
    rules = sentencepiece.SentencePieceNormalizer(model_proto=model.data).decompile()
    removed = _one_of(source for source, target in rules if not target)
    return [
        # The word boundary at the start goes only before the first character of the text.
        replace(Regex(rf"\A{removed}+"), " "),
        replace(Regex(_walls(rules)), _WALL),
        *compose,
        replace(Regex(r"(?<=.)(?=[^\x00-\x7f])"), _GAP),
        normalizers.Precompiled(model.character_map),
        *compose,
        replace(_WALL, ""),
        replace(Regex(" {2,}"), " "),
        # SentencePiece also strips "▁", which is a space from here on.
        replace(Regex(r"[ ▁]+\z"), ""),
    ]


def _walls(rules: Sequence[tuple[str, str]]) -> str:
    """Return a pattern for the gap before an accent that no rule composes with its predecessor."""
    before: dict[str, set[str]] = {accent: set() for accent in _accents()}
    for source, _ in rules:
        for first, second in pairwise(source):
            before.setdefault(second, set()).add(first)
    groups: dict[frozenset[str], list[str]] = defaultdict(list)
    for second, firsts in before.items():
        groups[frozenset(firsts)].append(second)
    gaps = [
        f"(?={_one_of(seconds)})" + (f"(?<!{_one_of(firsts)})" if firsts else "")
        for firsts, seconds in groups.items()
    ]
    # The library fails later if a character is inserted before all others.
    return rf"(?!\A)(?={_one_of(before)})(?:{'|'.join(gaps)})"


def _accents() -> list[str]:
    """Return the characters with a Unicode combining class."""
    return [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.combining(chr(c))]


def _one_of(characters: Iterable[str]) -> str:
    """Return a character class of a regular expression."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges) + "]"


class _Model:
    """The parts of a serialized SentencePiece model to which its library has no access.

    They are read without ``sentencepiece_model_pb2``, which needs protobuf 7; Apache Beam excludes
    that version.

    Attributes:
        data: The model.
        kind: Type of the model.
        pieces: Text, score and type of each piece.
        character_map: Rules of the normalizer.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        value: Any
        # Field numbers of sentencepiece_model.proto.
        self.pieces: list[tuple[str, float, int]] = []
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        for number, value in fields(data):
            if number == 1:
                piece: dict[int, Any] = dict(fields(value))
                (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
                self.pieces.append((piece[1].decode(), score, piece.get(3, _NORMAL)))
            elif number == 2:
                trainer |= dict(fields(value))
            elif number == 3:
                normalizer |= dict(fields(value))
        self.kind = trainer.get(3, _UNIGRAM)
        self.character_map = normalizer.get(2, b"")
        self._rules = normalizer.get(1, b"").decode()
        self._switches = {
            "byte_fallback": trainer.get(35, 0) == 1,
            "treat_whitespace_as_suffix": trainer.get(24, 0) == 1,
            "add_dummy_prefix=false": normalizer.get(3, 1) == 0,
            "remove_extra_whitespaces=false": normalizer.get(4, 1) == 0,
        }

    @property
    def is_uncased(self) -> bool:
        """True if the normalizer folds case."""
        return self._rules.endswith("_cf")

    def check(self) -> None:
        """Reject models that train-tokenizer does not make.

        Raises:
            BadInputError: The model has other features.
        """
        unsupported = [name for name, is_on in self._switches.items() if is_on]
        if self.kind not in (_UNIGRAM, _BPE):
            unsupported.append("pieces that are words or characters")
        if self._rules not in ("nmt_nfkc", "nmt_nfkc_cf"):
            unsupported.append(f"the normalization {self._rules or 'of its own'}")
        if any(kind not in (_NORMAL, _UNKNOWN, _CONTROL) for *_, kind in self.pieces):
            unsupported.append("user-defined, unused or byte pieces")
        if unsupported:
            raise BadInputError(
                f"a SentencePiece model with {unsupported[0]} cannot be exported;"
                " train another tokenizer with train-tokenizer"
            )
