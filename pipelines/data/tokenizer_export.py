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
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer

from bert_jax.errors import BadInputError
from pipelines.data.tokenizer import (
    CONFIG_FILE,
    JSON_FILE,
    SPECIALS,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    rust_wordpiece,
)

# SentencePiece's numbers of its kinds of models and pieces.
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
# Not in any text that Unicode allows to be exchanged, and not in SentencePiece's rules.
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
    rust.normalizer = normalizers.Sequence(_normalizers(model.character_map))
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


def _normalizers(character_map: bytes) -> list[normalizers.Normalizer]:
    """SentencePiece's normalisation in terms of the tokenizers library.

    SentencePiece replaces the longest sequence of characters for which it has a rule.
    ``Precompiled`` has the same rules, but takes the shortest for a character with its accents, and
    then drops the rest of them: "E" + acute would become "e". So it gets one character at a time
    (`_GAP`), after and before accents are joined to letters by NFC. Unlike NFC, SentencePiece has
    no rule for

    * a letter that has an accent already, before another one,
    * accents that do not come in Unicode's order.

    There `_WALL` keeps NFC off, which would change their order as well. What still differs are
    accents behind a ligature such as "ﬁ", U+0344, and a dot above some other alphabet's capital i.
    """
    replace = normalizers.Replace
    accents = {chr(c): unicodedata.combining(chr(c)) for c in _unicode() if c > 0x7F}
    accents = {character: order for character, order in accents.items() if order}
    accent = _one_of(accents)
    # NFC joins one accent at a time, because a gap follows it; no letter takes more than three.
    join = [
        replace(Regex(f"(?<={accent})(?={accent})"), _GAP),
        normalizers.NFC(),
        replace(_GAP, ""),
    ] * 3
    return [
        replace(Regex(_walls(accents)), _WALL),
        *join,
        replace(Regex(r"(?<=.)(?=[^\x00-\x7f])"), _GAP),
        normalizers.Precompiled(character_map),
        *join,
        replace(_WALL, ""),
        replace(Regex(" {2,}"), " "),
        # SentencePiece strips "▁" too, which stands for a space from here on.
        replace(Regex(r"[ ▁]+\z"), ""),
    ]


def _walls(accents: dict[str, int]) -> str:
    """Matches before each character that NFC would join and SentencePiece does not."""
    parts = {chr(c): unicodedata.normalize("NFD", chr(c)) for c in _unicode()}
    joined = {c: whole for c, whole in parts.items() if len(whole) > 1 and not "가" <= c <= "힣"}
    joining = {
        accent
        for c, whole in joined.items()
        if unicodedata.normalize("NFC", c) == c
        for accent in whole[1:]
        if accent in accents
    }
    behind = [f"(?<={_one_of(joined)})"]
    for order in sorted({accents[accent] for accent in joining} - {max(accents.values())}):
        later = _one_of(a for a in accents if accents[a] > order)
        behind.append(f"(?<={later})(?={_one_of(a for a in joining if accents[a] == order)})")
    korean = r"(?<=[\x{ac00}-\x{d7a3}])(?=[\x{11a8}-\x{11c2}])"
    return f"(?={_one_of(joining)})(?:{'|'.join(behind)})|{korean}"


def _unicode() -> Iterator[int]:
    yield from range(0xD800)
    yield from range(0xE000, 0x20000)


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
        kind: Of model.
        pieces: Text, score and kind of each.
        character_map: Rules of the normaliser.
    """

    def __init__(self, data: bytes) -> None:
        # Numbers of sentencepiece_model.proto.
        self.pieces: list[tuple[str, float, int]] = []
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        for number, found in _fields(data):
            if number == 1:
                piece = dict(_fields(found))
                self.pieces.append((piece[1].decode(), piece.get(2, 0.0), piece.get(3, _NORMAL)))
            elif number == 2:
                trainer |= dict(_fields(found))
            elif number == 3:
                normalizer |= dict(_fields(found))
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


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a serialised protocol buffer."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(data):
        key = varint()
        wire: Literal[0, 1, 2, 5] = cast(Any, key & 7)
        if wire == 0:
            yield key >> 3, varint()
            continue
        size = varint() if wire == 2 else {1: 8, 5: 4}[wire]
        found: Any = data[at : at + size]
        at += size
        yield key >> 3, struct.unpack("<f", found)[0] if wire == 5 else found
