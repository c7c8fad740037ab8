"""Hugging Face folders: tensors decide over config.json, and a part that is not usable is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bert_jax as package
from bert_jax.nn.tensor_names import ModelWeights, parts
from bert_jax.runtime.errors import BadInputError
from pipelines.models.convert import convert
from pipelines.models.formats import hugging_face
from pipelines.models.formats.config_fields import CONFIG_FIELDS
from pipelines.models.formats.hugging_face import CONFIG, WEIGHTS
from pipelines.models.open import open_model
from pipelines.models.predict import task_of
from support.commands import invoke, refused
from support.hugging_face_folders import (
    DECODER,
    MLM_BIAS,
    SEQUENCE,
    TOKENS,
    change,
    classifier,
    edit,
    opened,
)

TAGS = {"0": "O", "1": "B-LOC", "2": "I-LOC"}


@pytest.mark.parametrize(
    ("architectures", "without", "new", "keys", "expected"),
    [
        (["BertForMaskedLM"], ("cls.",), {}, {}, "BertModel"),
        (["BertForPreTraining"], ("cls.seq", "bert.pooler"), {}, {}, "BertForMaskedLM"),
        (["BertForPreTraining"], ("cls.pred",), {}, {}, "BertForNextSentencePrediction"),
        (["BertLMHeadModel"], (), {}, {}, "BertForPreTraining"),
        (None, (), {}, {}, "BertForPreTraining"),
        (None, ("cls.",), {}, {}, "BertModel"),
        (["BertForMaskedLM"], ("cls.",), classifier(3), {}, SEQUENCE),
        (["JointBERT"], ("cls.",), classifier(3), {}, SEQUENCE),
        (["JointBERT"], ("cls.",), classifier(3, "intent_classifier"), {}, "BertModel"),
        (["JointBERT", SEQUENCE], ("cls.",), classifier(3), {}, SEQUENCE),
        (["BertForMaskedLM"], ("cls.", "bert.pooler"), classifier(3), {}, TOKENS),
        # transformers 3 saved a pooler with every token classifier.
        ([TOKENS], ("cls.",), classifier(3), {}, TOKENS),
        (None, ("cls.",), classifier(3), {"id2label": TAGS}, TOKENS),
        (["BertModel"], ("cls.",), classifier(2, "qa_outputs"), {}, "BertForQuestionAnswering"),
        ([SEQUENCE], ("cls.",), classifier(2, "qa_outputs"), {}, "BertForQuestionAnswering"),
        (["BertForMultipleChoice"], ("cls.",), classifier(1), {}, "BertForMultipleChoice"),
        (["BertForMultipleChoice"], ("cls.",), classifier(3), {}, SEQUENCE),
        ([SEQUENCE], (), classifier(3), {}, SEQUENCE),
        ([TOKENS], (), {}, {}, "BertForPreTraining"),
        # Two texts side by side: no head on BERT.
        ([SEQUENCE], ("cls.",), {"classifier__weight": np.ones((3, 64), "f4")}, {}, "BertModel"),
    ],
)
def test_the_tensors_decide(
    folder: Path,
    architectures: list[str] | None,
    without: tuple[str, ...],
    new: dict[str, np.ndarray],
    keys: dict[str, Any],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(folder, *without, **new)
    edit(folder, architectures=architectures, **keys)
    read = hugging_face.read(folder)
    assert read.architecture == expected
    assert not read.unusable
    is_named = expected in (architectures or ["BertModel"])
    assert (f"those of {expected}" in capsys.readouterr().err) != is_named


def test_an_encoder_of_another_class_is_enough(folder: Path, tmp_path: Path) -> None:
    expected = package.load(folder).encode(["the man"])
    change(folder, "cls.", **classifier(3, "intent_classifier"))
    edit(folder, architectures=["JointBERT"])
    assert np.array_equal(package.load(folder).encode(["the man"]), expected)
    with pytest.raises(BadInputError, match="without a task head"):
        task_of(opened(folder))


@pytest.mark.parametrize("prefix", ["module.", "model.", "0.auto_model.", "encoder."])
@pytest.mark.parametrize("is_bare", [True, False])
def test_names_of_a_wrapped_model(
    folder: Path, prefix: str, is_bare: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = package.load(folder).encode(["the man"])
    arrays = load_file(folder / WEIGHTS)
    if is_bare:
        arrays = {n.removeprefix("bert."): a for n, a in arrays.items() if n.startswith("bert.")}
    wrapped = {f"{prefix}{name}": array for name, array in arrays.items()}
    save_file(wrapped, folder / WEIGHTS, {"format": "pt"})
    assert np.array_equal(package.load(folder).encode(["the man"]), expected)
    assert repr(prefix) in capsys.readouterr().err


def test_a_classifier_needs_its_pooler(folder: Path) -> None:
    change(folder, "cls.", "bert.pooler.dense.bias", **classifier(3))
    edit(folder, architectures=[SEQUENCE])
    with pytest.raises(BadInputError, match=r"bert\.pooler\.dense\.bias"):
        task_of(opened(folder))


def without_mlm(read: ModelWeights) -> None:
    assert parts(read.params) == {"encoder", "pooler", "nsp"}
    assert list(read.unusable) == ["mlm"]
    assert read.architecture == "BertForPreTraining"


@pytest.mark.parametrize("is_tied", [True, False])
def test_an_untied_decoder_is_not_used(
    folder: Path, is_tied: bool, tmp_path: Path, store_dir: Path
) -> None:
    expected = package.load(folder).encode(["the man"])
    table = load_file(folder / WEIGHTS)["bert.embeddings.word_embeddings.weight"]
    change(folder, cls__predictions__decoder__weight=table + 1)
    edit(folder, tie_word_embeddings=is_tied)
    without_mlm(hugging_face.read(folder))
    assert np.array_equal(package.load(folder).encode(["the man"]), expected)
    run = ("--data.store", store_dir, "--run_dir", tmp_path / "run", "--train.steps", "2")
    for command in (
        ("fill-mask", folder, "the [MASK]"),
        ("convert", folder, tmp_path / "out", "--to", "hf"),
        ("convert", folder, tmp_path / "out", "--to", "bert-jax"),
        ("evaluate", folder, "--store", store_dir),
        ("pretrain", "--init", folder, *run),
    ):
        refused(invoke(*command), 78, WEIGHTS, DECODER)
    assert not (tmp_path / "out").exists()


def test_an_equal_decoder_is_tied(folder: Path) -> None:
    plain = hugging_face.read(folder)
    table = load_file(folder / WEIGHTS)["bert.embeddings.word_embeddings.weight"]
    change(folder, cls__predictions__decoder__weight=table)
    edit(folder, tie_word_embeddings=False)
    assert parts(hugging_face.read(folder).params) == parts(plain.params)
    # Without a decoder in the file, transformers makes a random one.
    change(folder, DECODER)
    without_mlm(hugging_face.read(folder))


@pytest.mark.parametrize("tensor", ["cls.predictions.transform.LayerNorm.weight", MLM_BIAS])
def test_a_part_that_lacks_a_tensor_is_not_used(folder: Path, tensor: str) -> None:
    change(folder, tensor)
    read = hugging_face.read(folder)
    without_mlm(read)
    assert tensor in read.unusable["mlm"]


def test_a_classifier_does_not_need_its_decoder(folder: Path) -> None:
    table = load_file(folder / WEIGHTS)["bert.embeddings.word_embeddings.weight"]
    change(folder, cls__predictions__decoder__weight=table + 1, **classifier(3))
    edit(folder, architectures=[SEQUENCE], tie_word_embeddings=False)
    assert task_of(opened(folder))[0] == "classification"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"0": "x", "1": "y", "2": "x"}, "classes 0 and 2 the same name 'x'"),
        ({"0": "x", "1": "y"}, "3 classes"),
        ({"1": "x", "2": "y", "3": "z"}, "3 classes"),
        (["x", "y", "z"], "3 classes"),
    ],
)
def test_wrong_class_names_concern_only_the_head(folder: Path, names: Any, words: str) -> None:
    change(folder, "cls.", **classifier(3))
    edit(folder, architectures=[SEQUENCE], id2label=names)
    model = opened(folder)
    assert "head" not in parts(model.weights.params)
    with pytest.raises(BadInputError, match=words) as error:
        task_of(model)
    assert CONFIG in str(error.value)
    with pytest.raises(BadInputError, match=words):
        convert(model, folder.parent / "out", "bert-jax")


def test_names_of_other_classes_do_not_concern_question_answering(folder: Path) -> None:
    change(folder, "cls.", **classifier(2, "qa_outputs"))
    edit(folder, architectures=["BertForQuestionAnswering"], id2label=TAGS)
    assert task_of(opened(folder))[0] == "qa"


@pytest.mark.parametrize(
    ("kind", "classes", "fits"),
    [
        ("regression", 3, False),
        ("regression", 1, True),
        ("single_label_classification", 1, False),
        ("single_label_classification", 3, True),
        ("multi_label_classification", 3, True),
    ],
)
def test_problem_type_and_outputs_must_agree(
    folder: Path, kind: str, classes: int, fits: bool
) -> None:
    change(folder, "cls.", **classifier(classes))
    edit(folder, architectures=[SEQUENCE], problem_type=kind)
    model = opened(folder)
    assert model.weights.problem_type == kind
    if fits:
        tasks = {"regression": "regression", "multi_label_classification": "multi-label"}
        assert task_of(model)[0] == tasks.get(kind, "classification")
        return
    with pytest.raises(BadInputError, match="problem_type") as error:
        task_of(model)
    assert CONFIG in str(error.value)


def test_one_token_type_reads_single_texts(folder: Path, tmp_path: Path, store_dir: Path) -> None:
    table = load_file(folder / WEIGHTS)["bert.embeddings.token_type_embeddings.weight"]
    expected = package.load(folder).encode(["the man"])
    change(folder, bert__embeddings__token_type_embeddings__weight=table[:1].copy())
    edit(folder, type_vocab_size=1)
    assert np.array_equal(package.load(folder).encode(["the man"]), expected)
    convert(opened(folder), tmp_path / "ours", "bert-jax")
    assert opened(tmp_path / "ours").network.type_vocab_size == 1
    text, pairs = tmp_path / "pair.txt", tmp_path / "pairs.csv"
    text.write_text("the man\nthe man ||| a store\n", "utf-8")
    pairs.write_text("text,text_b,label\nthe man,a store,x\na,b,y\n", "utf-8")
    run = ("--init", folder, "--run_dir", tmp_path / "run")
    columns = ("--data.columns.text", "text", "--data.columns.pair", "text_b")
    for command in (
        ("extract-features", folder, "--input", text, "--output", tmp_path / "o.npz"),
        ("finetune", "classification", *run, "--data.train", pairs, *columns),
        ("pretrain", *run, "--train.steps", "2", "--data.store", store_dir),
    ):
        refused(invoke(*command), 78, "type_vocab_size")


def samples_of(name: str) -> list[Any]:
    """Return values of a key that must be rejected."""
    values: dict[str, list[Any]] = {
        "problem_type": ["ranking"],
        "position_embedding_type": ["relative_key", "alibi"],
        "directionality": ["left"],
        "pooler_type": ["mean"],
        "pruned_heads": [{"0": [1]}],
        "quantization_config": [{"load_in_8bit": True}],
        "auto_map": [{"AutoModel": "modeling.Model"}],
        "feed_forward_type": ["geglu"],
    }
    return values.get(name, [True])


@pytest.mark.parametrize("name", sorted(CONFIG_FIELDS))
def test_every_field_of_config_json(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    field = CONFIG_FIELDS[name]
    plain = hugging_face.read(folder)
    capsys.readouterr()
    if field.remedy:
        for value in samples_of(name):
            edit(folder, **{name: value})
            with pytest.raises(BadInputError, match=name) as error:
                hugging_face.read(folder)
            assert field.remedy in str(error.value)
    elif not field.is_used:
        edit(folder, **{name: "some value"})
        read = hugging_face.read(folder)
        assert (read.config, read.architecture) == (plain.config, plain.architecture)
        assert not capsys.readouterr().err


def test_unknown_fields_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder, window_size=7)
    hugging_face.read(folder)
    assert "'window_size'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flax_model.msgpack", "from_flax=True"),
        ("flax_model.msgpack.index.json", "from_flax=True"),
        ("tf_model.h5", "from_tf=True"),
        ("pytorch_model.bin", "save_pretrained"),
        ("adapter_config.json", "merge_and_unload"),
    ],
)
def test_other_weights_name_their_conversion(folder: Path, name: str, words: str) -> None:
    (folder / WEIGHTS).rename(folder / name)
    refused(invoke("inspect", folder), 78, name if "adapter" not in name else "adapter", words)


def test_pickled_weights_of_an_unknown_class_keep_their_heads(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    edit(folder, architectures=["JointBERT"])
    refused(invoke("inspect", folder), 78, "pytorch_model.bin", "weights_only=True")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "model-1-of-1.safetensors"])
def test_a_pointer_of_git_lfs_is_not_the_file(folder: Path, name: str) -> None:
    if name.startswith("model-"):
        (folder / WEIGHTS).unlink()
        index = {"weight_map": {"a": name}}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index), "utf-8")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (folder / name).write_text(pointer, "utf-8")
    refused(invoke("inspect", folder), 78, str(folder / name), "git lfs pull")


@pytest.mark.parametrize("layout", ["transposed", "sliced"])
def test_arrays_that_are_not_contiguous_are_written_as_they_are(
    folder: Path, layout: str, tmp_path: Path
) -> None:
    read = hugging_face.read(folder)
    table = read.params["bert"]["embeddings"]["token"]
    views = {
        "transposed": np.asfortranarray(table),
        "sliced": np.concatenate([table, table], axis=1)[:, :32],
    }
    read.params["bert"]["embeddings"]["token"] = views[layout]
    assert not views[layout].flags.c_contiguous
    hugging_face.write(tmp_path, read, 0)
    written = load_file(tmp_path / WEIGHTS)["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(written, table)


@pytest.mark.parametrize(
    ("files", "word"),
    [
        (["checkpoint-500/config.json", "checkpoint-500/model.safetensors"], "checkpoint-500"),
        (["config.json", "0_BERT/config.json", "0_BERT/model.safetensors"], "0_BERT"),
        (["adapter_config.json", "adapter_model.safetensors"], "merge_and_unload"),
        (["config.json", "model.fp16.safetensors"], "rename it"),
        (["config.json", "model.onnx"], "ONNX"),
        (["model.gguf"], "llama.cpp"),
        (["notes.txt"], "not a MODEL"),
    ],
)
def test_a_folder_without_weights_names_what_it_has(
    files: list[str], word: str, tmp_path: Path
) -> None:
    """Folders of Trainer, sentence-transformers and peft, and of other programs."""
    for name in files:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}")
    with pytest.raises(BadInputError, match=word):
        open_model(tmp_path)
