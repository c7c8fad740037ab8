"""Domain words in the unused slots of a vocabulary."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers.extend import MIN_COUNT, choose_words, extend, read_words
from pipelines.data.tokenizers.tokenizer import SPECIALS, WordPieceTokenizer, load
from support.commands import invoke, refused

LETTERS = [*"abcdefghijklmnopqrstuvwxyz.", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
FREE = [f"[unused{number}]" for number in range(3)]
PIECES = ["[PAD]", *FREE, *SPECIALS[1:], *LETTERS, "heart", "##itis"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    WordPieceTokenizer(PIECES, uncased=True).save(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    # Tokens saved by a whole word: stent 6 × 4, artery 5 × 5, carditis 8 × 4 (c a r d ##itis).
    text = (
        "Stent heart artery carditis.\n" * MIN_COUNT + "stent. Über rarity.\n" + "carditis.\n" * 3
    )
    (tmp_path / "report.txt").write_text(text, "utf-8")
    return tmp_path / "report.txt"


def test_the_words_that_save_most_tokens_replace_unused_tokens(
    base: Path, report: Path, tmp_path: Path
) -> None:
    arguments = ("extend-tokenizer", base, "--corpus", f"text:{report}", "--out", tmp_path / "new")
    result = invoke(*arguments, "--words", "2")
    assert result.returncode == 0, result.stderr
    assert "2 words replace 2 of 3 [unusedN] tokens" in result.stderr
    old, new = load(base), load(tmp_path / "new")
    assert new.pieces == ["[PAD]", "carditis", "artery", *PIECES[3:]]
    assert new.digest != old.digest
    assert new.encode(["The artery."])[0] == [*old.encode(["the"])[0], 2, old.pieces.index(".")]
    repeated = invoke(*arguments, "--words", "2")
    assert repeated.returncode == 0
    assert "already exists" in repeated.stderr
    refused(invoke(*arguments, "--words", "1"), 78, "words 2 (requested: 1)", "--out")


def test_words_are_ranked_by_tokens_saved_and_then_by_name(base: Path) -> None:
    tokenizer = load(base)
    assert isinstance(tokenizer, WordPieceTokenizer)
    rare = ["zebra"] * (MIN_COUNT - 1)
    unknown = ["naïveté 北 Ω123"] * 100
    text = [*rare, *unknown, *["abcd bcda heart"] * MIN_COUNT, *["xyz"] * (MIN_COUNT + 9)]
    assert choose_words(tokenizer, text, 9) == ["naivete", "xyz", "abcd", "bcda"]
    assert choose_words(tokenizer, text, 3) == ["naivete", "xyz", "abcd"]
    with pytest.raises(BadInputError, match="already"):
        choose_words(tokenizer, ["heart"] * 100, 9)


def test_no_more_words_than_unused_tokens(base: Path, report: Path, tmp_path: Path) -> None:
    extend(base, tmp_path / "new", specs=[f"text:{report}"], limit=50)
    assert load(tmp_path / "new").pieces[1:4] == ["carditis", "artery", "stent"]
    with pytest.raises(BadInputError, match=r"no \[unusedN\]"):
        extend(tmp_path / "new", tmp_path / "more", specs=[f"text:{report}"], limit=1)


def test_a_list_gives_the_words_instead(base: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Stent\n\nheart\n心\nstent \n", "utf-8")
    result = invoke("extend-tokenizer", base, "--list", words, "--out", tmp_path / "new")
    assert result.returncode == 0, result.stderr
    new = load(tmp_path / "new")
    assert new.pieces[1:4] == ["stent", "心", "[unused2]"]
    assert new.encode(["STENT 心 heart"]) == [[1, 2, new.pieces.index("heart")]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("heart\nby-pass\n", "line 2: the tokenizer does not read 'by-pass' as one word"),
        ("x" * 201, "at most 200 characters"),
        ("heart\n", "no word"),
        ("", "no word"),
        ("aa\nbb\ncc\ndd\n", r"4 new words, but the vocabulary has only 3"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    base: Path, tmp_path: Path, content: str | bytes, words: str
) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    tokenizer = load(base)
    assert isinstance(tokenizer, WordPieceTokenizer)
    with pytest.raises(BadInputError, match=words):
        read_words(tokenizer, file, 3)


def test_a_list_that_is_a_pipe_is_refused(base: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "words.txt")
    tokenizer = load(base)
    assert isinstance(tokenizer, WordPieceTokenizer)
    with pytest.raises(BadInputError, match="pipe"):
        read_words(tokenizer, tmp_path / "words.txt", 3)


def test_a_vocabulary_without_unused_tokens_is_refused(tokenizer_dir: Path, tmp_path: Path) -> None:
    WordPieceTokenizer([*SPECIALS, *LETTERS], uncased=True).save(tmp_path / "full")
    for model, words in ((tokenizer_dir, "SentencePiece"), (tmp_path / "full", r"no \[unusedN\]")):
        with pytest.raises(BadInputError, match=words):
            extend(model, tmp_path / "new", word_list=tmp_path / "words.txt")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--words", "3"),
        ("--corpus", "python-docs"),
        ("--corpus", "python-docs", "--words", "0"),
        ("--corpus", "python-docs", "--words", "1", "--list", "words.txt"),
    ],
)
def test_exactly_one_source_of_words_is_required(
    base: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    refused(invoke("extend-tokenizer", base, "--out", tmp_path / "new", *arguments), 64, "--words")
