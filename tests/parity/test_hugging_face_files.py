"""Files that transformers writes are read as it reads them, and the other way round."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bert_jax as package
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.data.tokenizers.config_fields import SPECIAL_TOKENS_FIELDS, TOKENIZER_FIELDS
from pipelines.data.tokenizers.export import export
from pipelines.data.tokenizers.tokenizer import SPECIALS, Tokenizer, WordPieceTokenizer, load
from pipelines.data.tokenizers.vocabulary import train_vocabulary
from pipelines.models.convert import convert
from pipelines.models.formats import hugging_face
from pipelines.models.formats.config_fields import CONFIG_FIELDS
from pipelines.models.open import open_model
from support.commands import ROOT

transformers = pytest.importorskip("transformers")

THEIRS = ROOT / "tests/golden/hugging_face"
TEXT = "The Cook É sells bread in the harbor [ ] < > / s P U C S M pad unk cls sep mask 中国"
TEXTS = ["the Cook É sells 中国", "ÉÉ bread", "THE cook", "中 harbor"]
NAMES = [form.format(w) for w in (*SPECIALS, "<unk>", "</s>") for form in ("{0}", "a {0}x{0}")]


def ids_of(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def keys(folder: Path, name: str) -> set[str]:
    file = folder / name
    return set(json.loads(file.read_text("utf-8"))) if file.is_file() else set()


def test_every_key_of_a_config_is_in_the_table(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        num_labels=3, problem_type="single_label_classification", classifier_dropout=0.1
    )
    written = set(config.to_dict()) | set(config.to_diff_dict())
    for name in ("BertModel", "BertForPreTraining", "BertForSequenceClassification"):
        small = transformers.AutoConfig.from_pretrained(THEIRS)
        getattr(transformers, name)(small).save_pretrained(tmp_path / name)
        written |= keys(tmp_path / name, "config.json")
        hugging_face.read(tmp_path / name)
    assert written <= CONFIG_FIELDS.keys()


@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_every_key_of_a_tokenizer_is_in_the_table(kind: str, tmp_path: Path) -> None:
    export(load(THEIRS), tmp_path / "ours", 40)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path / "ours")
    theirs.add_tokens(["[gene]"])
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]"], "bos_token": "[CLS]"})
    theirs.save_pretrained(tmp_path / "theirs")
    assert keys(tmp_path / "theirs", "tokenizer_config.json") <= TOKENIZER_FIELDS.keys()
    assert keys(tmp_path / "theirs", "special_tokens_map.json") <= SPECIAL_TOKENS_FIELDS.keys()
    again = load(tmp_path / "theirs")
    texts = ["the [gene] man[gene]s", "[E1] man[E1]s [e1]", "[GENE]"]
    assert again.encode(texts) == ids_of(theirs, texts)
    # And back.
    export(again, tmp_path / "back", 40)
    assert ids_of(transformers.AutoTokenizer.from_pretrained(tmp_path / "back"), texts) == ids_of(
        theirs, texts
    )


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_of_older_folders_have_the_same_ids(file: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(THEIRS, tmp_path / "folder"))
    size = load(folder).vocab_size
    tokens = {"[drug]": size, "[gene]": size + 1}
    content: dict[str, Any] = tokens
    if file != "added_tokens.json":
        flags = {"lstrip": False, "rstrip": False, "single_word": True, "normalized": True}
        decoder = {str(n): {"content": t, "special": False, **flags} for t, n in tokens.items()}
        content = {"do_lower_case": True, "added_tokens_decoder": decoder}
    (folder / file).write_text(json.dumps(content), "utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["the [gene] man", "man[gene]s [DRUG]", "a[drug] [drug]b", "[gene][drug]"]
    assert load(folder).encode(texts) == ids_of(theirs, texts)


LISTED = {"additional_special_tokens": ["[E1]"]}
NAMED = {"extra_special_tokens": {"entity_token": "[E1]"}}


@pytest.mark.parametrize(
    ("file", "content", "is_found"),
    [
        ("special_tokens_map.json", LISTED, True),
        ("special_tokens_map.json", {"extra_special_tokens": ["[E1]"]}, False),
        ("special_tokens_map.json", {"bos_token": "[E1]"}, False),
        ("special_tokens_map.json", LISTED | {"eos_token": "[E1]"}, False),
        ("special_tokens_map.json", NAMED, True),
        ("tokenizer_config.json", LISTED, False),
        ("tokenizer_config.json", {"extra_special_tokens": ["[E1]"]}, False),
        ("tokenizer_config.json", {"bos_token": "[E1]"}, False),
        ("tokenizer_config.json", {"entity_token": "[E1]"}, True),
        ("tokenizer_config.json", NAMED, True),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_special_tokens_of_older_folders_have_the_same_ids(
    file: str, content: dict[str, Any], is_found: bool, with_config: bool, tmp_path: Path
) -> None:
    """Find a token in lower case unless the place of its name makes it special."""
    folder = Path(shutil.copytree(THEIRS, tmp_path / "folder"))
    size = load(folder).vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"[E1]": size}), "utf-8")
    if with_config:
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}', "utf-8")
    config = {"do_lower_case": True} if file == "tokenizer_config.json" else {}
    (folder / file).write_text(json.dumps(config | content), "utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["[e1]", "[E1]", "man[E1]s the[e1]", "[E1][e1] man"]
    ours = load(folder)
    assert (ours.encode(["[e1]"]) == [[size]]) == is_found
    assert ours.encode(texts) == ids_of(theirs, texts)
    export(ours, tmp_path / "exported", 40)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert ids_of(again, texts) == ids_of(theirs, texts)


def wordpiece(uncased: bool, **options: bool) -> Tokenizer:
    letters = sorted(set(f"{TEXT} {TEXT.lower()}e") - {" "})
    pieces = [*SPECIALS, "the", "bread", "中国", *letters, *(f"##{c}" for c in letters)]
    return WordPieceTokenizer(pieces, uncased, **options)


TOKENIZERS: dict[str, Callable[[bool], Tokenizer]] = {
    "wordpiece": wordpiece,
    "wordpiece with accents": lambda uncased: wordpiece(uncased, strip_accents=False),
    "wordpiece without accents": lambda uncased: wordpiece(uncased, strip_accents=True),
    "wordpiece without cjk": lambda uncased: wordpiece(uncased, split_cjk=False),
    "unigram": lambda uncased: train_vocabulary("unigram", [TEXT] * 20, 38, uncased),
    "bpe": lambda uncased: train_vocabulary("bpe", [TEXT] * 20, 60, uncased),
}


@pytest.mark.parametrize("uncased", [True, False])
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("with_model", [True, False])
def test_an_export_states_its_rules_and_is_read_as_stated(
    kind: str, uncased: bool, with_model: bool, tmp_path: Path
) -> None:
    """Load an export, alone and beside the config of a model, which can select another class."""
    tokenizer = TOKENIZERS[kind](uncased)
    export(tokenizer, tmp_path, 128)
    if with_model:
        shutil.copy(THEIRS / "config.json", tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert config["do_lower_case"] == uncased
    assert {"strip_accents", "tokenize_chinese_chars"} <= config.keys()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ids_of(theirs, TEXTS) == tokenizer.encode(TEXTS)


@pytest.mark.parametrize("uncased", [True, False])
@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_names_of_special_tokens_are_plain_text_if_stated(
    kind: str, uncased: bool, tmp_path: Path
) -> None:
    tokenizer = TOKENIZERS[kind](uncased)
    export(tokenizer, tmp_path / "masks", 128)
    export(tokenizer, tmp_path / "plain", 128, split_specials=True)
    masks, plain = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("masks", "plain")
    )
    ours = tokenizer.encode(NAMES)
    assert ids_of(plain, NAMES) == ours
    assert masks(NAMES, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ours
    masked = ["[MASK]", "a [MASK] b"]
    assert ids_of(masks, masked) == [tokenizer.encode_masked(text) for text in masked]
    assert ids_of(masks, ["a [SEP]"]) != tokenizer.encode(["a [SEP]"])
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert plain("a [SEP]")["input_ids"] == [cls, *tokenizer.encode(["a [SEP]"])[0], sep]


@pytest.mark.parametrize("architecture", ["BertModel", "BertForPreTraining"])
def test_only_a_model_with_masks_reads_them(architecture: str, tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(THEIRS)
    getattr(transformers, architecture)(config).save_pretrained(tmp_path / "theirs")
    shutil.copy(THEIRS / "vocab.txt", tmp_path / "theirs")
    convert(open_model(tmp_path / "theirs", Partitioner(devices()[:1])), tmp_path / "out", "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    (ids,) = ids_of(theirs, ["the [MASK]"])
    assert (theirs.mask_token_id in ids) == (architecture == "BertForPreTraining")


def save(folder: Path, architecture: str, **options: Any) -> Any:
    """Save a model of transformers with a vocabulary of our golden folder; return it."""
    config = transformers.AutoConfig.from_pretrained(THEIRS)
    for name, value in options.items():
        setattr(config, name, value)
    model = getattr(transformers, architecture)(config).eval()
    model.save_pretrained(folder)
    shutil.copy(THEIRS / "vocab.txt", folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}', "utf-8")
    return model


def edit(folder: Path, **keys: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | keys), "utf-8")


UNUSUAL = {
    "one token type": ("BertModel", {"type_vocab_size": 1}, {}),
    "untied": ("BertForPreTraining", {"tie_word_embeddings": False}, {}),
    "own class": ("BertForSequenceClassification", {}, {"architectures": ["JointBERT"]}),
    "config of the base": ("BertForMaskedLM", {}, {"architectures": ["BertForPreTraining"]}),
    "no architectures": ("BertForTokenClassification", {}, {"architectures": None}),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_the_encoder_of_an_unusual_folder_is_as_in_transformers(kind: str, tmp_path: Path) -> None:
    import torch

    architecture, options, keys_ = UNUSUAL[kind]
    save(tmp_path, architecture, **options)
    edit(tmp_path, **keys_)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    for text in ("the man", "the man went to a store"):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        (states,) = package.load(tmp_path).encode([text], pooling=None)
        np.testing.assert_allclose(states, expected, atol=2e-6)


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["JointBERT"], None])
def test_a_classifier_with_a_wrong_name_predicts_as_in_transformers(
    architectures: list[str] | None, tmp_path: Path
) -> None:
    import torch

    names = {0: "neg", 1: "neu", 2: "pos"}
    model = save(tmp_path, "BertForSequenceClassification", num_labels=3, id2label=names)
    edit(tmp_path, architectures=architectures)
    texts = ["the man", "he went to a store"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    records = package.load(tmp_path).predict(tmp_path / "in.jsonl")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text, record in zip(texts, records, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        expected = dict(zip(names.values(), logits.softmax(-1).tolist(), strict=True))
        assert record["probabilities"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("layout", ["transposed", "sliced"])
def test_the_library_reads_arrays_that_were_not_contiguous(layout: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    read = hugging_face.read(THEIRS)
    embeddings = read.params["bert"]["embeddings"]
    table = embeddings["token"]
    embeddings["token"] = (
        np.asfortranarray(table) if layout == "transposed" else np.repeat(table, 2, axis=1)[:, ::2]
    )
    hugging_face.write(tmp_path, read, 0)
    written = load_file(tmp_path / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(written.numpy(), table)
