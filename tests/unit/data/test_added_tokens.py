"""Tokens that were added to a WordPiece vocabulary, and other files beside it."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer as RustTokenizer

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers.config_fields import SPECIAL_TOKENS_FIELDS, TOKENIZER_FIELDS
from pipelines.data.tokenizers.export import export
from pipelines.data.tokenizers.tokenizer import (
    SPECIALS,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    load,
)
from pipelines.data.tokenizers.vocabulary import Kind, train_vocabulary

PIECES = [*SPECIALS, "a", "hello", "##a", "##s", "gene", "[", "]", "e1"]
GENE, E1 = len(PIECES), len(PIECES) + 1
PLAIN = {"content": "[gene]", "special": False, "normalized": True}
SPECIAL = {"content": "[E1]", "special": True, "normalized": False}
# Inside of words, in capitals, and a special token in lower case.
TEXTS = ["a [gene] hello[gene]s", "[GENE]", "hello [E1] hello[E1]s", "[e1]"]
IDS = [[5, GENE, 6, GENE, 1], [GENE], [6, E1, 6, E1, 1], [10, 12, 11]]
PLAIN_IDS = [*IDS[:3], [E1]]  # [E1] is not special; checked with transformers in tests/parity


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a vocabulary alone."""
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), "utf-8")
    write(tmp_path, "tokenizer_config.json", {"do_lower_case": True})
    return tmp_path


def in_decoder(folder: Path) -> None:
    decoder = {str(GENE): PLAIN, str(E1): SPECIAL, "0": {"content": "[PAD]", "special": True}}
    config = {"do_lower_case": True, "added_tokens_decoder": decoder}
    write(folder, "tokenizer_config.json", config)


def in_old_files(folder: Path) -> None:
    write(folder, "added_tokens.json", {"[gene]": GENE, "[E1]": E1})
    write(folder, "special_tokens_map.json", {"additional_special_tokens": ["[E1]"]})


def in_old_config(folder: Path) -> None:
    in_old_files(folder)
    listed = {"additional_special_tokens": ["[E1]"]}
    write(folder, "tokenizer_config.json", {"do_lower_case": True} | listed)


def in_both(folder: Path) -> None:
    in_decoder(folder)
    in_old_files(folder)


def in_tokenizer_json(folder: Path) -> None:
    export(load(folder), folder, 512)
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    data["added_tokens"] += [{"id": GENE, **PLAIN}, {"id": E1, **SPECIAL}]
    write(folder, "tokenizer.json", data)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (in_decoder, IDS),
        (in_old_files, PLAIN_IDS),
        (in_old_config, IDS),
        (in_both, IDS),
        (in_tokenizer_json, IDS),
    ],
)
def test_added_tokens_are_found_in_a_text_like_in_transformers(
    folder: Path, source: Any, expected: list[list[int]], tmp_path: Path
) -> None:
    source(folder)
    tokenizer = load(folder)
    assert tokenizer.pieces == [*PIECES, "[gene]", "[E1]"]
    assert tokenizer.encode(TEXTS) == expected
    assert [ids for ids, _ in tokenizer.encode_with_offsets(TEXTS)] == expected
    assert tokenizer.encode_with_offsets(["a [gene]"])[0][1] == [(0, 1), (2, 8)]
    assert tokenizer.encode_masked("[MASK] [gene]") == [4, GENE]
    tokenizer.save(tmp_path / "saved")
    export(tokenizer, tmp_path / "exported", 512)
    for name in ("saved", "exported"):
        again = load(tmp_path / name)
        assert (again.digest, again.pieces) == (tokenizer.digest, tokenizer.pieces)
        assert again.encode(TEXTS) == expected
    rust = RustTokenizer.from_file(str(tmp_path / "exported" / "tokenizer.json"))
    assert [rust.encode(text, add_special_tokens=False).ids for text in TEXTS] == expected
    plain = WordPieceTokenizer(tokenizer.pieces, uncased=True)
    assert plain.digest != tokenizer.digest


def test_special_tokens_of_the_vocabulary_are_found(folder: Path) -> None:
    write(folder, "special_tokens_map.json", {"additional_special_tokens": [{"content": "e1"}]})
    assert load(folder).encode(["helloe1s"]) == [[6, 12, 1]]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"added_tokens.json": {"[gene]": GENE + 1}}, "not the next one"),
        ({"added_tokens.json": {"[gene]": 5}}, "not the next one"),
        ({"added_tokens.json": {"hello": GENE}}, "in the vocabulary 6"),
        ({"added_tokens.json": {"[gene]": "x"}}, "'x'"),
        ({"added_tokens.json": {"x": GENE, "y": GENE}}, str(GENE)),
        ({"added_tokens.json": []}, "added_tokens.json"),
        ({"special_tokens_map.json": {"additional_special_tokens": ["<x>"]}}, "'<x>' has no id"),
        ({"special_tokens_map.json": {"additional_special_tokens": [3]}}, "additional_special"),
        ({"special_tokens_map.json": {"unk_token": "<unk>"}}, "unk_token"),
        ({"tokenizer_config.json": {"unk_token": {"content": "<unk>"}}}, "unk_token"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": PLAIN}}}, "-1"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"13": {}}}}, "no content"),
        ({"tokenizer_config.json": {"added_tokens_decoder": []}}, "must be an object"),
        ({"tokenizer_config.json": {"entity_token": "<x>"}}, "'<x>' has no id"),
        (
            {
                "tokenizer_config.json": {"added_tokens_decoder": {str(GENE): PLAIN}},
                "added_tokens.json": {"[gene]": E1},
            },
            "do not belong together",
        ),
    ],
    ids=str,
)
def test_contradictions_are_one_line(folder: Path, files: dict[str, Any], words: str) -> None:
    for name, content in files.items():
        write(folder, name, content)
    with pytest.raises(BadInputError, match=words) as error:
        load(folder)
    assert str(folder) in str(error.value)


def rejected(name: str) -> Any:
    """Return a value of a key of tokenizer_config.json that must be rejected."""
    values: dict[str, Any] = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "padding_side": "left",
        "truncation_side": "left",
        "never_split": ["covid"],
        "wordpieces_prefix": "@@",
        "init_inputs": ["x"],
        "auto_map": {"AutoTokenizer": ["tokenization.Tokenizer", None]},
    }
    return values.get(name, "<s>" if name.endswith("_token") else False)


@pytest.mark.parametrize("name", sorted(TOKENIZER_FIELDS))
def test_every_field_of_tokenizer_config(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    field, plain = TOKENIZER_FIELDS[name], load(folder)
    config: dict[str, Any] = {"do_lower_case": True}
    if field.remedy:
        write(folder, "tokenizer_config.json", config | {name: rejected(name)})
        with pytest.raises(BadInputError, match=name) as error:
            load(folder)
        assert field.remedy in str(error.value)
        value = SPECIALS[0] if name == "pad_token" else None
    elif field.is_used:
        return
    else:
        value = "some value"
    write(folder, "tokenizer_config.json", config | {name: value})
    assert load(folder).digest == plain.digest
    assert not capsys.readouterr().err


def test_fields_of_the_map_are_those_of_the_config() -> None:
    assert SPECIAL_TOKENS_FIELDS.items() <= TOKENIZER_FIELDS.items()


def test_unknown_fields_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "tokenizer_config.json", {"do_lower_case": True, "ngram_size": 3})
    load(folder)
    assert "'ngram_size'" in capsys.readouterr().err


def test_a_sequence_of_one_normalizer_is_that_one(folder: Path) -> None:
    tokenizer = load(folder)
    export(tokenizer, folder, 512)
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    for part in ("normalizer", "pre_tokenizer"):
        data[part] = {"type": "Sequence", f"{part}s": [data[part]]}
    write(folder, "tokenizer.json", data)
    assert load(folder).digest == tokenizer.digest
    data["normalizer"]["normalizers"] *= 2
    write(folder, "tokenizer.json", data)
    with pytest.raises(BadInputError, match="Sequence"):
        load(folder)


@pytest.mark.parametrize("has_weights", [True, False])
def test_a_model_keeps_the_tokenizer_that_it_was_trained_with(
    tmp_path: Path, has_weights: bool
) -> None:
    for name in ("sentencepiece.bpe.model", "tokenizer.json"):
        folder = tmp_path / name
        folder.mkdir()
        write(folder, name, {"model": {"type": "Unigram", "vocab": []}})
        if has_weights:
            write(folder, "config.json", {})
        with pytest.raises(BadInputError, match="another model" if has_weights else "train") as e:
            load(folder)
        assert name in str(e.value)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([*PIECES, "gene"], "lines 10 and 14 .*'gene'.*repeated10"),
        ([*PIECES, "", ""], "lines 14 and 15 are empty"),
        ([*SPECIALS, "", "a", ""], "lines 6 and 8 are empty"),
    ],
)
def test_repeated_lines_of_a_vocabulary(folder: Path, lines: list[str], words: str) -> None:
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    with pytest.raises(BadInputError, match=words):
        load(folder)


def test_line_ends_and_an_empty_line_do_not_change_ids(folder: Path) -> None:
    tokenizer = load(folder)
    lines = "".join(f"{piece}\r\n" for piece in PIECES)
    (folder / "vocab.txt").write_bytes(lines.encode())
    assert load(folder).digest == tokenizer.digest
    (folder / "vocab.txt").write_bytes(lines.replace("a\r\n", "\r\n", 1).encode())
    assert load(folder).encode(["hello gene"]) == tokenizer.encode(["hello gene"])


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    "name", ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "sentencepiece.model"]
)
def test_a_pointer_of_git_lfs_is_not_the_file(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER, "utf-8")
    with pytest.raises(BadInputError, match="git lfs pull") as error:
        load(folder)
    assert str(folder / name) in str(error.value)


def with_end_symbols(sentences: list[str]) -> Tokenizer:
    """Return a SentencePiece tokenizer that has <s> and </s>, too."""
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=written, minloglevel=2,
        pad_id=0, unk_id=1, bos_id=5, eos_id=6, pad_piece="[PAD]", unk_piece="[UNK]",
        control_symbols=list(SPECIALS[2:]), vocab_size=80, hard_vocab_limit=False,
    )  # fmt: skip
    return SentencePieceTokenizer(written.getvalue())


@pytest.mark.parametrize("uncased", [True, False])
@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece", "with </s>"])
def test_names_of_special_tokens_are_plain_text(
    kind: Kind, uncased: bool, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = [line for line in corpus.read_text("utf-8").splitlines() if line]
    sentences += ["a [ ] < > / s PAD UNK CLS SEP MASK pad unk"] * 50
    if kind == "with </s>":  # type: ignore[comparison-overlap]
        tokenizer = with_end_symbols(sentences)
    else:
        tokenizer = train_vocabulary(kind, sentences, 120 if kind == "wordpiece" else 75, uncased)
    export(tokenizer, tmp_path, 128)
    opened = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    words = [*SPECIALS, "<unk>", "<s>", "</s>", "[mask]"]
    texts = [form.format(word) for word in words for form in ("{}", "a {} b", "x{}y", " {}")]

    def ids() -> list[list[int]]:
        return [opened.encode(text, add_special_tokens=False).ids for text in texts]

    named = tokenizer.special_words.names
    assert set(SPECIALS) <= set(named)
    for text, ours, theirs in zip(texts, map(tokenizer.encode_masked, texts), ids(), strict=True):
        is_plain = not any(name in text for name in named if name != "[MASK]")
        assert (ours == theirs) == is_plain, text
    opened.encode_special_tokens = True  # split_special_tokens of transformers
    tokenizer.special_words.report()
    assert tokenizer.encode(texts) == ids()
    capsys.readouterr()
    tokenizer.special_words.report()
    count = sum(any(name in text for name in named) for text in texts)
    assert f": {count}; " in capsys.readouterr().err
    tokenizer.special_words.report()
    assert not capsys.readouterr().err
