"""Combining marks that are vowels or parts of letters, and what uncased tokenizers do to them."""
# ruff: noqa: RUF001 (letters of other scripts are meant)

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as RustTokenizer

from pipelines.data.store.prepare import prepare
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.export import export
from pipelines.data.tokenizers.letter_marks import marked_words, marks_warning
from support.commands import invoke, refused

HINDI = ["नदी के पास कुत्ता है।", "बिल्ली पेड़ों पर थी।", "", "यह किताब अच्छी है।", "मैं घर में हूँ।"]
LOSSES = {
    "Devanagari": ("हिन्दी", "हिनदी"),
    "Thai": ("ที่นี่", "ทน"),
    "Bengali": ("কুকুর", "ককর"),
    "Tamil": ("தமிழ்", "தமிழ"),
    "hiragana": ("がっこう", "かっこう"),
    "half-width dakuten": ("は\u3099", "は"),
    "hamza": ("أحمد", "احمد"),
    "niqqud": ("שָׁלוֹם", "שלום"),
    "Khmer": ("ខ្មែរ", "ខមែរ"),
    "Burmese": ("မြန်မာ", "မြနမာ"),
    "Gurmukhi": ("ਪੰਜਾਬੀ", "ਪਜਾਬੀ"),
}
ACCENTS = {
    "Vietnamese": "Việt",
    "Finnish": "pöytä",
    "separate": "e\u0301",
    "Greek": "ἄνθρωπος",
    "Cyrillic": "йод",
    "heart": "❤\ufe0f",
    "ideograph variant": "葛\U000e0100",
    "Korean": "한국어",
    "Chinese": "中文",
    "tie": "t\u0361s",
}


@pytest.mark.parametrize("script", LOSSES)
def test_vowels_and_parts_of_letters_are_counted(script: str) -> None:
    word, rest = LOSSES[script]
    assert marked_words(f"a {word} b") == (3, 1, word)
    line = marks_warning(3, 1, word)
    assert repr(word) in line
    # The line shows what the library really does.
    pieces = [*tokenizers.SPECIALS, "a"]
    normalized = "".join(tokenizers.WordPieceTokenizer(pieces, uncased=True).words(word))
    assert unicodedata.normalize("NFC", normalized) == rest
    assert repr(normalized) in line


@pytest.mark.parametrize("kind", ACCENTS)
def test_accents_and_variation_selectors_are_not(kind: str) -> None:
    assert marked_words(ACCENTS[kind]) == (1, 0, "")


def test_a_few_words_in_a_large_corpus_are_no_reason_to_warn() -> None:
    assert marks_warning(10_000, 10, "हिन्दी") == ""
    assert marks_warning(10_000, 11, "हिन्दी") != ""


def train(folder: Path, size: int, *words: str, text: list[str] = HINDI) -> tuple[int, str, Path]:
    corpus, out = folder / "a.txt", folder / "tokenizer"
    corpus.write_text("\n".join(text) + "\n", "utf-8")
    arguments = ("--vocab-size", str(size), "--language", "hi", "--out", out, *words)
    result = invoke("train-tokenizer", "--corpus", f"text:{corpus}", *arguments)
    return result.returncode, result.stderr, out


def test_training_and_preparing_report_lost_vowels(tmp_path: Path) -> None:
    code, stderr, out = train(tmp_path, 50, "--kind", "wordpiece")
    assert code == 0, stderr
    assert "'के' becomes 'क'" in stderr
    assert "--keep-accents" in stderr
    prepare([f"text:{tmp_path}/a.txt"], out, tmp_path / "store", 0.0)
    card = json.loads((tmp_path / "store" / "card.json").read_text("utf-8"))
    assert any("--keep-accents" in line for line in card["warnings"])


@pytest.mark.parametrize(
    "words",
    [("--kind", "wordpiece", "--keep-accents"), ("--kind", "wordpiece", "--cased"), ()],
    ids=["keep-accents", "cased", "sentencepiece"],
)
def test_other_tokenizers_keep_them_without_a_warning(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    code, stderr, out = train(tmp_path, 80 if words else 38, *words)
    assert code == 0, stderr
    assert "--keep-accents" not in stderr
    tokenizer = tokenizers.load(out)
    (ids,) = tokenizer.encode([HINDI[0]])
    assert tokenizer.unk_id not in ids
    assert tokenizer.decode(ids).replace(" ।", "।") == HINDI[0]
    prepare([f"text:{tmp_path}/a.txt"], out, tmp_path / "store", 0.0)
    card = json.loads((tmp_path / "store" / "card.json").read_text("utf-8"))
    assert not any("--keep-accents" in line for line in card["warnings"])


def test_keep_accents_is_recorded_and_exported(tmp_path: Path) -> None:
    text = ["Ääkköset ovat öitä.", "Élan VITAL.", *HINDI]
    options = ("--kind", "wordpiece", "--keep-accents")
    code, stderr, out = train(tmp_path, 120, *options, text=text)
    assert code == 0, stderr
    tokenizer = tokenizers.load(out)
    assert isinstance(tokenizer, tokenizers.WordPieceTokenizer)
    assert tokenizer.words("ÄÖ É नदी") == ["äö", "é", "नदी"]
    config = json.loads((out / "tokenizer_config.json").read_text("utf-8"))
    assert (config["do_lower_case"], config["strip_accents"]) == (True, False)
    export(tokenizer, tmp_path / "hf", 32)
    exported = RustTokenizer.from_file(str(tmp_path / "hf/tokenizer.json"))
    assert exported.normalizer.normalize_str("ÄÖ É नदी") == "äö é नदी"
    for line in text:
        assert exported.encode(line, add_special_tokens=False).ids == tokenizer.encode([line])[0]
    assert train(tmp_path, 120, *options, text=text)[0] == 0  # finished work
    assert train(tmp_path, 120, "--kind", "wordpiece", text=text)[0] == 78
    # Records of versions before the option lack it.
    record = json.loads((out / "training.json").read_text("utf-8"))
    del record["keep_accents"]
    (out / "training.json").write_text(json.dumps(record), "utf-8")
    assert train(tmp_path, 120, "--kind", "wordpiece", text=text)[0] == 0


def test_keep_accents_is_an_option_of_wordpiece(tmp_path: Path) -> None:
    arguments = ("train-tokenizer", "--corpus", "text:a", "--vocab-size", "60", "--out", tmp_path)
    refused(invoke(*arguments, "--keep-accents"), 64, "--keep-accents", "--kind wordpiece")


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Straße", "straße"),  # Unicode's case folding makes "strasse"
        ("ẞ", "ß"),
        ("İzmir", "İzmir"),  # and i with a dot above
        ("ılık Ilık", "ılık▁ilık"),
        ("می\u200cخواهم", "می▁خواهم"),  # a zero-width non-joiner becomes a space
        ("क्\u200dष", "क्\u200dष"),  # a zero-width joiner remains
        ("ÄÉ नदी が", "äé▁नदी▁が"),
        ("ΟΔΟΣ", "οδοσ"),
        ("ﬁ", "fi"),
    ],
)
def test_what_lower_casing_of_sentencepiece_changes(text: str, normalized: str) -> None:
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc_cf")
    assert normalizer.normalize(text).removeprefix("▁") == normalized


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Straße", ["straße"]),
        ("İzmir", ["izmir"]),  # "i" and a dot above, which is an accent
        ("می\u200cخواهم", ["میخواهم"]),  # joiners are removed
        ("한", ["\u1112\u1161\u11ab"]),  # syllables of Korean become letters
    ],
)
def test_what_lower_casing_of_wordpiece_changes(text: str, words: list[str]) -> None:
    tokenizer = tokenizers.WordPieceTokenizer([*tokenizers.SPECIALS, "a"], uncased=True)
    assert tokenizer.words(text) == words


def test_keep_accents_only_lowercases() -> None:
    pieces = [*tokenizers.SPECIALS, "a"]
    tokenizer = tokenizers.WordPieceTokenizer(pieces, uncased=True, strip_accents=False)
    assert tokenizer.words("İ Ä क्\u200dष 한") == ["i\u0307", "ä", "क्ष", "한"]
