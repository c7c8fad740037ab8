"""Writes a tokenizer as ``transformers.AutoTokenizer.from_pretrained`` opens it.

The ids are the same, with these exceptions:

* A special token written in a text, such as "[SEP]", is plain text here and the token there;
  "[MASK]" is as in `Tokenizer.encode_masked`.
* WordPiece: ``BertTokenizer`` of transformers 5 makes words of more than 100 characters [UNK],
  whatever ``tokenizer.json`` says; the tokenizers library alone follows the file.
* SentencePiece: see `_normalizers`.
"""

from __future__ import annotations

import json
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
from pipelines.data.tokenizers.tokenizer import (
    CONFIG_FILE,
    JSON_FILE,
    SPECIALS,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    rust_wordpiece,
)
from pipelines.models.formats.protobuf import fields

# SentencePiece's numbers of its kinds of models and pieces.
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
# No character of any text, says Unicode, and in no rule of SentencePiece.
_WALL = "\ufdd0"
# SentencePiece's rules remove this one.
_GAP = "\x01"


def export(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes the files; `load` reads the same tokenizer from them.

    Args:
        tokenizer: To be written.
        folder: Made if it is not there.
        max_length: The longest sequence that the model takes, [CLS] and [SEP] included.

    Raises:
        BadInputError: It is a SentencePiece model with rules that ``tokenizer.json`` cannot hold.
    """
    config: dict[str, Any]
    if isinstance(tokenizer, WordPieceTokenizer):
        rust = _wordpiece(tokenizer)
        config = {"tokenizer_class": "BertTokenizer", **tokenizer.config()}
    else:
        rust = _sentencepiece(_Model(cast(SentencePieceTokenizer, tokenizer).model))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        }
    config["model_max_length"] = max_length
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    config |= dict(zip(names, SPECIALS, strict=True))
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls_id), ("[SEP]", tokenizer.sep_id)],
    )
    tokenizer.save(folder)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / JSON_FILE).write_text(rust.to_str(pretty=True) + "\n", "utf-8")


def _wordpiece(tokenizer: WordPieceTokenizer) -> RustTokenizer:
    rust = rust_wordpiece(
        {piece: number for number, piece in enumerate(tokenizer.pieces)},
        tokenizer.uncased,
        tokenizer.strip_accents,
        tokenizer.split_cjk,
        tokenizer.max_word,
    )
    rust.add_special_tokens(_added(SPECIALS))
    return rust


def _added(pieces: Iterable[str]) -> list[AddedToken]:
    return [AddedToken(piece, special=True, normalized=False) for piece in pieces]


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
    # One word boundary at the start of a text; the whole text is cut at once, as in SentencePiece.
    shape: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "first", "split": False}
    rust.pre_tokenizer = pre_tokenizers.Metaspace(**shape)
    rust.decoder = decoders.Metaspace(**shape)
    rust.add_special_tokens(_added(piece for piece, _, kind in model.pieces if kind != _NORMAL))
    return rust


def _merges(model: _Model) -> list[tuple[str, str]]:
    """The merges of BPE in order; SentencePiece keeps only what they make, and when."""
    known = {piece for piece, _, kind in model.pieces if kind == _NORMAL}
    made = sorted((-score, piece) for piece, score, kind in model.pieces if kind == _NORMAL)
    return [
        (piece[:cut], piece[cut:])
        for _, piece in made
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]


def _normalizers(model: _Model) -> list[normalizers.Normalizer]:
    """SentencePiece's normalisation in terms of the tokenizers library.

    SentencePiece replaces the longest sequence of characters for which it has a rule.
    ``Precompiled`` has the same rules, but takes the shortest for a character with its accents, and
    then drops the rest of them: "E" + acute would become "e". So it gets one character at a time
    (`_GAP`), and what the longer rules do is done by NFC before and after it. NFC joins more than
    they do (accents in any order; to letters that have one; to the end of a ligature) and changes
    the order of accents: `_WALL` stands where no rule joins two characters.

    What still differs: accents on signs that stand for a capital letter, such as the Roman numeral
    one with a dot above, which are lower-cased before they are joined; control characters right
    behind a special token; and U+FDD0, which is dropped.
    """
    replace = normalizers.Replace
    accent = _one_of(_accents())
    # NFC joins one accent at a time, because a gap follows it; no letter takes more than three.
    join = [
        replace(Regex(f"(?<={accent})(?={accent})"), _GAP),
        normalizers.NFC(),
        replace(_GAP, ""),
    ] * 3
    rules = sentencepiece.SentencePieceNormalizer(model_proto=model.data).decompile()
    removed = _one_of(source for source, target in rules if not target)
    return [
        # The word boundary at the start is put before the first character of the text only.
        replace(Regex(rf"\A{removed}+"), " "),
        replace(Regex(_walls(rules)), _WALL),
        *join,
        replace(Regex(r"(?<=.)(?=[^\x00-\x7f])"), _GAP),
        normalizers.Precompiled(model.character_map),
        *join,
        replace(_WALL, ""),
        replace(Regex(" {2,}"), " "),
        # SentencePiece strips "▁" too, which stands for a space from here on.
        replace(Regex(r"[ ▁]+\z"), ""),
    ]


def _walls(rules: Sequence[tuple[str, str]]) -> str:
    """Matches between two characters, the second an accent or the like, that no rule joins."""
    before: dict[str, set[str]] = {accent: set() for accent in _accents()}
    for source, _ in rules:
        for first, second in pairwise(source):
            before.setdefault(second, set()).add(first)
    alike: dict[frozenset[str], list[str]] = defaultdict(list)
    for second, firsts in before.items():
        alike[frozenset(firsts)].append(second)
    places = [
        f"(?={_one_of(many)})" + (f"(?<!{_one_of(firsts)})" if firsts else "")
        for firsts, many in alike.items()
    ]
    # A character put before all others makes the library fail later on.
    return rf"(?!\A)(?={_one_of(before)})(?:{'|'.join(places)})"


def _accents() -> list[str]:
    """The characters that Unicode puts in order behind a letter."""
    return [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.combining(chr(c))]


def _one_of(characters: Iterable[str]) -> str:
    """A class of characters for a regular expression."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges) + "]"


class _Model:
    """The parts of a serialised SentencePiece model that its library does not show.

    Read without ``sentencepiece_model_pb2``: it needs protobuf 7, and Apache Beam excludes that.

    Attributes:
        data: The model.
        kind: Of model.
        pieces: Text, score and kind of each.
        character_map: Rules of the normaliser.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        found: Any
        # Numbers of sentencepiece_model.proto.
        self.pieces: list[tuple[str, float, int]] = []
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        for number, found in fields(data):
            if number == 1:
                piece: dict[int, Any] = dict(fields(found))
                (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
                self.pieces.append((piece[1].decode(), score, piece.get(3, _NORMAL)))
            elif number == 2:
                trainer |= dict(fields(found))
            elif number == 3:
                normalizer |= dict(fields(found))
        self.kind = trainer.get(3, _UNIGRAM)
        self.character_map = normalizer.get(2, b"")
        self._rules = normalizer.get(1, b"").decode()
        self._switches = {
            "byte_fallback": trainer.get(35, 0) == 1,
            "treat_whitespace_as_suffix": trainer.get(24, 0) == 1,
            "add_dummy_prefix=false": normalizer.get(3, 1) == 0,
            "remove_extra_whitespaces=false": normalizer.get(4, 1) == 0,
        }

    def check(self) -> None:
        """Refuses what train-tokenizer does not make.

        Raises:
            BadInputError: The model has something else.
        """
        odd = [name for name, is_on in self._switches.items() if is_on]
        if self.kind not in (_UNIGRAM, _BPE):
            odd.append("pieces that are words or characters")
        if self._rules not in ("nmt_nfkc", "nmt_nfkc_cf"):
            odd.append(f"the normalisation {self._rules or 'of its own'}")
        if any(kind not in (_NORMAL, _UNKNOWN, _CONTROL) for *_, kind in self.pieces):
            odd.append("user-defined, unused or byte pieces")
        if odd:
            raise BadInputError(
                f"a SentencePiece model with {odd[0]} cannot be exported;"
                " train-tokenizer learns one that can"
            )
