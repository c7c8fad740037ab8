"""Tokenizers read from and written to Hugging Face's files, checked with the tokenizers library."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer as RustTokenizer

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers import record as records
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.export import export
from pipelines.data.tokenizers.tokenizer import (
    CONFIG_FILE,
    JSON_FILE,
    SPECIALS,
    VOCAB_FILE,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    load,
)
from pipelines.data.tokenizers.vocabulary import Kind, train_vocabulary

PIECES = [*SPECIALS, "un", "##aff", "##able", "hello", "!", "é", "e", "中", "中国", "##s"]
# What normalisers treat differently: accents apart from and in other orders on their letters,
# ligatures, full and half width, jamo, controls, spaces of all kinds, emoji, the sign for a space.
TEXTS = [
    "The captain finds a lamp.", "  two   spaces\there \n", "", " ", "CAPTAIN", "boat\u3000lamp",
    "E\u0301l\u0301 e\u0302\u0301 e\u0301\u0323 \u00e9\u0323 A\u0302\u0300 x\u0307\u0323",
    "\ufb01ne ½ ① \u2163", "\uff76\uff9e \uff76 \uff8a\uff9f", "\uff21\uff22\uff23\uff11\uff12",
    "\u1112\u1161\u11ab \ud55c\u11ab ㅎㅏㄴ", "a\u200db\u200cc\ufeffd", "a\x01b\x7f",
    "▁lead ▁ trail▁", "👩\u200d👩\u200d👧 🇩🇪 ☝🏽", "\u00a0nbsp\u2028line\u0085", "\r\n\u0301",
    "ß \u017f ς İ I\u0307 ŉ", "\u0646\u064e\u0635\u0651\u064c", "\u05e9\u05c1\u05b8\u05dc",
    "\u0958 \u0995\u09cd\u09b7 \u09c7\u09be", "\U0001d518\U0001d52b 𠀀", "no\u0338 \u0301 alone",
]  # fmt: skip
MASKED = ["the [MASK] finds [MASK].", "[MASK]", "[MASK][MASK]s", " [MASK]\u3000lamp", "x[MASK] ."]


def rust(folder: Path) -> Callable[[str], list[int]]:
    opened = RustTokenizer.from_file(str(folder / JSON_FILE))
    return lambda text: opened.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def sentences(corpus: Path) -> list[str]:
    return [line for line in corpus.read_text("utf-8").splitlines() if line]


def same(one: Tokenizer, other: Tokenizer) -> bool:
    return (one.digest, one.pieces) == (other.digest, other.pieces)


@pytest.mark.parametrize("uncased", [True, False])
@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
@pytest.mark.parametrize("known", [False, True], ids=["unknown-characters", "known-characters"])
def test_an_exported_tokenizer_gives_the_same_ids(
    kind: Kind, uncased: bool, known: bool, sentences: list[str], tmp_path: Path
) -> None:
    text = [*sentences, *TEXTS * 20] if known else sentences
    size = {"unigram": 135, "bpe": 250, "wordpiece": 290}[kind] if known else 70
    tokenizer = train_vocabulary(kind, text, size, uncased)
    export(tokenizer, tmp_path, 128)
    assert same(load(tmp_path), tokenizer)
    encode = rust(tmp_path)
    for line in [*TEXTS, *sentences[:50], *MASKED]:
        assert encode(line) == tokenizer.encode_masked(line), ascii(line)
    pair = RustTokenizer.from_file(str(tmp_path / JSON_FILE)).encode("the lamp", "a boat")
    a, b = tokenizer.encode(["the lamp", "a boat"])
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert pair.ids == [cls, *a, sep, *b, sep]
    assert pair.type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    config = json.loads((tmp_path / CONFIG_FILE).read_text("utf-8"))
    assert config["model_max_length"] == 128
    assert config.items() >= {"mask_token": "[MASK]"}.items()


@pytest.mark.parametrize(
    ("options", "text", "ids"),
    [
        ({}, "É中国", [11, 12, 1]),
        ({"strip_accents": False}, "É", [10]),
        ({"split_cjk": False}, "中国", [13]),
        ({"max_word": 5}, "hellos hello", [1, 8]),
        ({"uncased": False, "strip_accents": True}, "é É", [11, 1]),
    ],
)
def test_options_survive(
    options: dict[str, Any], text: str, ids: list[int], tmp_path: Path
) -> None:
    tokenizer = WordPieceTokenizer(PIECES, **{"uncased": True, **options})
    assert tokenizer.encode([text]) == [ids]
    # Stores made before there were options know this digest.
    default = hashlib.sha256("\n".join([*PIECES, "True"]).encode()).hexdigest()
    assert (tokenizer.digest == default) == (not options)
    tokenizer.save(tmp_path / "saved")
    export(tokenizer, tmp_path / "exported", 512)
    assert same(load(tmp_path / "saved"), tokenizer)
    assert same(load(tmp_path / "exported"), tokenizer)
    assert rust(tmp_path / "exported")(text) == ids
    for name in (CONFIG_FILE, VOCAB_FILE):  # the json file alone says the same
        (tmp_path / "exported" / name).unlink()
    assert same(load(tmp_path / "exported"), tokenizer)


def test_tokenizer_config_has_precedence(tmp_path: Path) -> None:
    export(WordPieceTokenizer(PIECES, uncased=True, max_word=9), tmp_path, 512)
    config = tmp_path / CONFIG_FILE
    for entries, uncased, strip in (
        ({"do_lower_case": False}, False, False),
        ({"do_lower_case": None, "strip_accents": False}, True, False),
        ({"strip_accents": None, "tokenize_chinese_chars": True}, True, True),
        ({}, True, True),
    ):
        config.write_text(json.dumps(entries), "utf-8")
        tokenizer = load(tmp_path)
        assert isinstance(tokenizer, WordPieceTokenizer)
        assert (tokenizer.uncased, tokenizer.strip_accents) == (uncased, strip)
        assert tokenizer.max_word == 200  # BERT's, as for vocab.txt alone
    (tmp_path / VOCAB_FILE).unlink()
    tokenizer = load(tmp_path)
    assert isinstance(tokenizer, WordPieceTokenizer)
    assert tokenizer.max_word == 9


def test_a_run_a_checkpoint_and_a_store_lead_to_their_tokenizer(tmp_path: Path) -> None:
    tokenizer = WordPieceTokenizer(PIECES, uncased=True)
    tokenizer.save(tmp_path / "run" / tokenizers.SUBFOLDER)
    (tmp_path / "run" / "checkpoints" / "20").mkdir(parents=True)
    assert same(load(tmp_path / "run"), tokenizer)
    assert same(load(tmp_path / "run" / "checkpoints" / "20"), tokenizer)
    with pytest.raises(BadInputError, match="neither"):
        load(tmp_path)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("described")
    export(WordPieceTokenizer(PIECES, uncased=True), folder, 512)
    return json.loads((folder / JSON_FILE).read_text("utf-8"))


TOKEN = {"id": 15, "content": "hell", "special": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.type": "BPE"}, 'model is "BPE"'),
        ({"model": None}, "model is missing"),
        ({"model": []}, "model must be an object"),
        ({"model.vocab": ["a"]}, "vocab must be an object"),
        ({"model.vocab.hello": 99}, "id of 'hello' is 99"),
        ({"model.vocab.hello": 5}, "is 5; the 15 tokens must have the ids 0 to 14"),
        ({"model.vocab.hello": True}, "is true"),
        ({"model.vocab.hello": "8"}, 'is "8"'),
        ({"model.vocab.a\nb": 15}, "cannot be a line"),
        ({"model.vocab.\ud800": 15}, "cannot be a line"),
        ({"model.vocab": {"[UNK]": 0}, "added_tokens": []}, "lacks"),
        ({"model.unk_token": "<unk>"}, 'unknown token is "<unk>"'),
        ({"model.continuing_subword_prefix": "@@"}, "prefix"),
        ({"model.max_input_chars_per_word": -1}, "positive"),
        ({"model.max_input_chars_per_word": 1 << 70}, "below"),
        ({"model.max_input_chars_per_word": None}, "has no max_input_chars_per_word"),
        ({"normalizer": {"type": "NFC"}}, 'normalizer is "NFC"'),
        ({"normalizer.lowercase": "yes"}, "lowercase must be true or false"),
        ({"normalizer.clean_text": False}, "clean_text"),
        ({"pre_tokenizer.type": "Whitespace"}, 'pre_tokenizer is "Whitespace"'),
        ({"added_tokens": {}}, "not a list"),
        ({"added_tokens": [{"id": 15}]}, "no content"),
        ({"added_tokens": [{**TOKEN, "lstrip": "no"}]}, "lstrip must be true or false"),
        ({"normalizer": {"type": "Sequence", "normalizers": []}}, 'normalizer is "Sequence"'),
        ({"added_tokens": [{**TOKEN, "id": 17}]}, "id of 'hell' is 17"),
        ({"added_tokens": [{**TOKEN, "content": "hello"}]}, "has the id 15, in the vocabulary 8"),
    ],
    ids=str,
)
def test_a_tokenizer_json_of_another_kind_is_refused(
    described: dict[str, Any], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    data = json.loads(json.dumps(described))
    for path, content in changes.items():
        *parents, key = path.split(".")
        parent_object = data
        for parent in parents:
            parent_object = parent_object[parent]
        parent_object[key] = content
    (tmp_path / JSON_FILE).write_text(json.dumps(data), "utf-8")
    with pytest.raises(BadInputError, match=words) as error:
        load(tmp_path)
    assert JSON_FILE in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (JSON_FILE, "{", "not JSON"),
        (JSON_FILE, "[" * 100_000, "not JSON"),
        (JSON_FILE, "[]", "expected keys and values"),
        (JSON_FILE, "\xff", "not JSON"),
        (CONFIG_FILE, "3", "expected keys and values"),
        (CONFIG_FILE, '{"do_lower_case": "false"}', "do_lower_case must be true or false"),
        (CONFIG_FILE, '{"max_input_chars_per_word": true}', "must be a whole number"),
        (CONFIG_FILE, '{"tokenizer_class": "BertJapaneseTokenizer"}', "Japanese"),
        (VOCAB_FILE, "\n".join([*SPECIALS, "un"]), "different vocabularies"),
        (VOCAB_FILE, "\xff", "restore"),
    ],
)
def test_a_damaged_file_is_refused(name: str, content: str, words: str, tmp_path: Path) -> None:
    export(WordPieceTokenizer(PIECES, uncased=True), tmp_path, 512)
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInputError, match=words) as error:
        load(tmp_path)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_type": "char"}, "words or characters"),
        ({"normalization_rule_name": "identity"}, "identity"),
        ({"add_dummy_prefix": False}, "add_dummy_prefix"),
        ({"remove_extra_whitespaces": False}, "remove_extra_whitespaces"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
        ({"byte_fallback": True, "vocab_size": 300}, "byte_fallback"),
        ({"user_defined_symbols": ["<x>"]}, "user-defined"),
    ],
    ids=str,
)
def test_a_model_that_tokenizer_json_cannot_express_is_refused(
    options: dict[str, Any], words: str, sentences: list[str], tmp_path: Path
) -> None:
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=written, minloglevel=2,
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="[PAD]", unk_piece="[UNK]",
        control_symbols=list(SPECIALS[2:]),
        **{"vocab_size": 60, "hard_vocab_limit": False, **options},
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(written.getvalue())
    with pytest.raises(BadInputError, match=words):
        export(tokenizer, tmp_path / "out", 512)
    assert not (tmp_path / "out").exists()


def test_prepare_takes_the_folder_of_a_model(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    from pipelines.data.store.prepare import prepare

    shutil.copytree(tokenizer_dir, tmp_path / "run" / tokenizers.SUBFOLDER)
    prepare([f"text:{corpus}"], tmp_path / "run", tmp_path / "store", 0.0)
    assert same(load(tmp_path / "store"), load(tokenizer_dir))


def test_a_piece_that_is_not_utf8_is_refused(sentences: list[str], tmp_path: Path) -> None:
    train_vocabulary("unigram", sentences, 70, True).save(tmp_path)
    file = tmp_path / tokenizers.SENTENCEPIECE_FILE
    file.write_bytes(file.read_bytes().replace("▁t".encode(), b"\xe2\x96\x81\xff"))
    with pytest.raises(BadInputError, match=r"sentencepiece\.model is not .*; restore it"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", '{"a": '])
def test_a_damaged_record_of_training_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / records.RECORD).write_text(text, "utf-8")
    with pytest.raises(BadInputError, match=f"remove {tmp_path} and train it again"):
        records.exists(tmp_path, {})
