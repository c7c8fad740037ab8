"""Models from elsewhere and to elsewhere: the same bits, one line for every fault."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bert_jax as package
from bert_jax.config.run import RunConfig
from bert_jax.nn.tensor_names import parts
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.checkpoint import FOLDER
from bert_jax.training.partitioner import Partitioner
from pipelines.folders import DATA_CARD
from pipelines.models.convert import convert
from pipelines.models.formats import hugging_face
from pipelines.models.model_card import model_card
from pipelines.models.open import open_model
from pipelines.pretraining import pretrain
from support.commands import ROOT, inspected, invoke, refused, small_disk

GOLDEN = ROOT / "tests/golden"
THEIRS = GOLDEN / "hugging_face"


@pytest.fixture(scope="module")
def partitioner() -> Partitioner:
    return Partitioner(devices()[:1])


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A Hugging Face folder of the test's own."""
    return Path(shutil.copytree(THEIRS, tmp_path / "theirs"))


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].tobytes() == second[name].tobytes() for name in first
    )


@pytest.mark.parametrize("source", [THEIRS, GOLDEN / "tf1"])
def test_there_and_back_changes_no_bit(
    tmp_path: Path, source: Path, partitioner: Partitioner
) -> None:
    for number, (model, to) in enumerate(
        [(source, "hf"), (tmp_path / "0", "bert-jax"), (tmp_path / "1", "hf")]
    ):
        convert(open_model(model, partitioner), tmp_path / str(number), to)  # type: ignore[arg-type]
    assert same(tensors(tmp_path / "0"), tensors(tmp_path / "2"))
    if source == THEIRS:
        assert same(tensors(source), tensors(tmp_path / "2"))
    digests = {inspected(model)["digest"] for model in (source, tmp_path / "1", tmp_path / "2")}
    assert len(digests) == 1
    config = json.loads((tmp_path / "2/config.json").read_text("utf-8"))
    assert config["hidden_act"] == ("gelu" if source == THEIRS else "gelu_new")
    assert config["architectures"] == ["BertForPreTraining"]


def test_a_run_becomes_a_folder_with_a_card(
    tmp_path: Path, trained: Path, partitioner: Partitioner
) -> None:
    result = invoke("convert", trained, tmp_path / "hf", "--to", "hf")
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    card = (tmp_path / "hf/README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: fill-mask\n")
    for words in ("20 updates", "learning_rate: 0.001", "| mlm_loss |", "documents", "SHA-256"):
        assert words in card
    run, hf = open_model(trained, partitioner), open_model(tmp_path / "hf", partitioner)
    assert run.tokenizer().digest == hf.tokenizer().digest
    assert inspected(trained)["digest"] == inspected(tmp_path / "hf")["digest"]
    # It can be evaluated like what it was made of, given the store.
    assert invoke("convert", trained, tmp_path / "ours", "--to", "bert-jax").returncode == 0
    store = run.run.data.store if run.run else ""
    options = ("--store", store, "--length", "32", "--json")
    results = [invoke("evaluate", tmp_path / name, *options) for name in ("ours", "hf")]
    losses = [json.loads(result.stdout)["loss"] for result in results]
    assert losses[0] == losses[1]
    refused(invoke("evaluate", tmp_path / "hf"), 64, "--store")


def test_untrained_parameters_are_not_converted(
    tmp_path: Path, config: RunConfig, partitioner: Partitioner
) -> None:
    quick = replace(config, data=replace(config.data, objective="mlm"))
    quick = replace(quick, phases=(replace(quick.phases[0], steps=2),))
    pretrain(quick, partitioner)
    convert(open_model(Path(quick.run_dir), partitioner), tmp_path / "hf", "hf")
    config_json = json.loads((tmp_path / "hf/config.json").read_text("utf-8"))
    assert config_json["architectures"] == ["BertForMaskedLM"]
    assert not any(
        "seq_relationship" in name or "pooler" in name for name in tensors(tmp_path / "hf")
    )


def test_older_names_and_copies_of_tied_tensors_are_understood(theirs: Path) -> None:
    plain = hugging_face.read(theirs)
    arrays = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): a
        for name, a in tensors(theirs).items()
    }
    arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"]
    arrays["bert.embeddings.position_ids"] = np.arange(40)[None]
    save_file(arrays, theirs / "model.safetensors")
    older = hugging_face.read(theirs)
    jax.tree.map(np.testing.assert_array_equal, plain.params, older.params)
    arrays["cls.predictions.decoder.weight"] = arrays["cls.predictions.decoder.weight"] + 1
    save_file(arrays, theirs / "model.safetensors")
    untied = hugging_face.read(theirs)
    assert "decoder.weight differs from" in untied.unusable["mlm"]
    assert parts(untied.params) == {"encoder", "pooler", "nsp"}


def test_a_bare_encoder_has_no_heads(
    tmp_path: Path, theirs: Path, partitioner: Partitioner
) -> None:
    arrays = {
        name.removeprefix("bert."): array
        for name, array in tensors(theirs).items()
        if name.startswith("bert.")
    }
    save_file(arrays, theirs / "model.safetensors", {"format": "pt"})
    edit(theirs, architectures=["BertModel"])
    assert parts(hugging_face.read(theirs).params) == {"encoder", "pooler"}
    refused(
        invoke("fill-mask", theirs, "the [MASK]"), 78, "masked language modeling head", "--init"
    )
    convert(open_model(theirs, partitioner), tmp_path / "ours", "bert-jax")
    convert(open_model(tmp_path / "ours", partitioner), tmp_path / "back", "hf")
    assert same(tensors(tmp_path / "back"), arrays)
    with_heads = package.load(THEIRS).encode(["the man", "a store"])
    assert np.array_equal(
        package.load(tmp_path / "ours").encode(["the man", "a store"]), with_heads
    )


def edit(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | keys), "utf-8")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta' is not BERT"),
        ({"architectures": "BertModel"}, "architectures must be a list"),
        ({"is_decoder": True}, "is_decoder: true"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"vocab_size": 71}, "word_embeddings.weight has shape [70, 32], but the config needs [71"),
        ({"intermediate_size": 49}, "intermediate.dense.weight has shape [48, 32], but the config"),
        ({"num_hidden_layers": 3}, "no tensor bert.encoder.layer.2.attention.self.query.weight"),
        ({"hidden_size": None}, "hidden_size must be a whole number"),
        ({"hidden_act": ["gelu"]}, "hidden_act ['gelu']"),
        (
            {"num_hidden_layers": 1},
            "layer.1.attention.self.query.weight, but the config has 1 layers",
        ),
        # As RoBERTa and DistilBERT describe themselves.
        ({"model_type": "roberta", "type_vocab_size": 1}, "model_type 'roberta'"),
        ({"model_type": "distilbert", "hidden_size": None}, "model_type 'distilbert'"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(
    theirs: Path, keys: dict[str, Any], words: str
) -> None:
    edit(theirs, **keys)
    with pytest.raises(BadInputError) as refusal:
        hugging_face.read(theirs)
    assert words in str(refusal.value)
    assert str(theirs) in str(refusal.value)


def header_lies(data: bytes) -> bytes:
    return struct.pack("<Q", 1 << 40) + data[8:]


def shape_lies(data: bytes) -> bytes:
    return data.replace(b"[70,32]", b"[70,99]")


@pytest.mark.parametrize("damage", [header_lies, shape_lies, lambda d: d[:-4], lambda d: b""])
def test_a_damaged_file_is_one_line(theirs: Path, damage: Callable[[bytes], bytes]) -> None:
    path = theirs / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused(invoke("inspect", theirs), 78, str(path), "damaged")


def test_no_pickle_is_opened(theirs: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    (theirs / "model.safetensors").unlink()
    (theirs / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    refused(invoke("inspect", theirs), 78, "pytorch_model.bin", "save_pretrained")
    assert not (tmp_path / "executed").exists()


def test_an_index_cannot_lead_out_of_the_folder(theirs: Path) -> None:
    shutil.move(theirs / "model.safetensors", theirs.parent / "outside.safetensors")
    index = {"weight_map": dict.fromkeys(("a", "b"), "../outside.safetensors")}
    (theirs / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(BadInputError, match="move that file beside it"):
        hugging_face.read(theirs)


def test_a_vocabulary_that_is_too_large_for_the_embedding(theirs: Path) -> None:
    with (theirs / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("another\n")
    refused(invoke("fill-mask", theirs, "the [MASK]"), 78, "71 tokens", "70 token embeddings")


def test_a_vocabulary_that_is_too_small_for_the_embedding(
    theirs: Path, partitioner: Partitioner
) -> None:
    arrays = tensors(theirs)
    for name, most in (("bert.embeddings.word_embeddings.weight", 1), ("cls.predictions.bias", 0)):
        rows = np.zeros((1024, *arrays[name].shape[1:]), np.float32)
        arrays[name] = np.concatenate([arrays[name], rows])
        assert arrays[name].ndim == most + 1
    save_file(arrays, theirs / "model.safetensors")
    edit(theirs, vocab_size=70 + 1024)
    refused(invoke("fill-mask", theirs, "the [MASK]"), 78, "70 tokens", "1,094 token embeddings")
    # Rounding up is no fault.
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        arrays[name] = arrays[name][:128]
    save_file(arrays, theirs / "model.safetensors")
    edit(theirs, vocab_size=128)
    assert open_model(theirs, partitioner).tokenizer().vocab_size == 70


def test_a_type_that_numpy_does_not_know(theirs: Path) -> None:
    path = theirs / "model.safetensors"
    size, rest = path.read_bytes()[:8], path.read_bytes()[8:]
    header, data = rest[: struct.unpack("<Q", size)[0]], rest[struct.unpack("<Q", size)[0] :]
    entries = json.loads(header)
    entries["extra"] = {
        "dtype": "F8_E4M3",
        "shape": [4],
        "data_offsets": [len(data), len(data) + 4],
    }
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data + bytes(4))
    refused(invoke("inspect", theirs), 78, str(path))


def test_a_folder_of_both_kinds_is_read_from_the_one_with_weights(
    tmp_path: Path, partitioner: Partitioner
) -> None:
    both = Path(shutil.copytree(GOLDEN / "tf1", tmp_path / "both"))
    shutil.copy(THEIRS / "config.json", both)
    assert open_model(both, partitioner).network.gelu == "tanh"
    shutil.copy(THEIRS / "model.safetensors", both)
    assert open_model(both, partitioner).network.gelu == "erf"


@pytest.mark.parametrize("labels", [("LABEL_0",), ("no", "yes", "maybe")])
def test_a_task_head_keeps_its_classes(
    tmp_path: Path, theirs: Path, labels: tuple[str, ...], partitioner: Partitioner
) -> None:
    arrays = {name: a for name, a in tensors(theirs).items() if not name.startswith("cls.")}
    arrays["classifier.weight"] = np.ones((len(labels), 32), np.float32)
    arrays["classifier.bias"] = np.zeros(len(labels), np.float32)
    save_file(arrays, theirs / "model.safetensors", {"format": "pt"})
    by_id = {str(number): label for number, label in enumerate(labels)}
    kind = {"problem_type": "multi_label_classification"} if len(labels) > 1 else {}
    edit(theirs, architectures=["BertForSequenceClassification"], id2label=by_id, **kind)
    convert(open_model(theirs, partitioner), tmp_path / "ours", "bert-jax")
    convert(open_model(tmp_path / "ours", partitioner), tmp_path / "back", "hf")
    assert same(tensors(tmp_path / "back"), arrays)
    config = json.loads((tmp_path / "back/config.json").read_text("utf-8"))
    assert config["id2label"] == by_id
    assert config.get("problem_type") == kind.get("problem_type")
    card = (tmp_path / "back/README.md").read_text("utf-8")
    assert "BertForSequenceClassification.from_pretrained" in card
    assert "updates" not in card


def test_nothing_is_overwritten_or_left_half(tmp_path: Path, theirs: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine", "utf-8")
    refused(invoke("convert", theirs, out, "--to", "hf"), 78, "is not empty (notes.txt")
    (theirs / "vocab.txt").unlink()
    refused(invoke("convert", theirs, tmp_path / "new", "--to", "hf"), 78, "vocab.txt")
    refused(invoke("convert", theirs, tmp_path / "new", "--to", "gguf"), 64, "hf")
    refused(invoke("inspect", tmp_path / "bert-base-uncased"), 78, "hf:ORG/NAME")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "theirs"}
    assert (out / "notes.txt").read_text("utf-8") == "mine"


def test_a_full_disk_is_one_line(tmp_path: Path, theirs: Path) -> None:
    with small_disk(tmp_path / "small", "size=64k") as disk:
        refused(invoke("convert", theirs, disk / "out", "--to", "hf"), 1, "are free")
        assert not list(disk.iterdir())


def test_converted_weights_are_no_run(tmp_path: Path, store_dir: Path, trained: Path) -> None:
    assert invoke("convert", trained, tmp_path / "w", "--to", "bert-jax").returncode == 0
    assert [path.name for path in (tmp_path / "w" / FOLDER).iterdir()] == ["20"]
    options = ("--data.store", store_dir, "--train.steps", "30", "--run_dir", tmp_path / "w")
    model = ("--model.hidden_size", "32", "--model.preset", "bert-tiny")
    refused(invoke("pretrain", *options, *model), 78, "converted weights", "--init")


def test_a_card_escapes_untrusted_text(
    tmp_path: Path, trained: Path, partitioner: Partitioner
) -> None:
    model = open_model(trained, partitioner)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / DATA_CARD).write_text("# a \\[b\\]\n\n<script>x</script> ![y](http://z) \\<", "utf-8")
    (folder / "metrics.jsonl").write_text(
        '{"step": 3, "eval_<b>\\n# x": 1.5, "eval_mlm_loss": 2.5}\n', "utf-8"
    )
    assert model.run is not None
    run = replace(model.run, init="a\n```\n<b>", run_dir=str(folder))
    weights = replace(model.weights, labels=("x\n---\n# y", "<script>", "[a](b)"))
    card = model_card(replace(model, folder=folder, run=run, weights=weights))
    assert r"Classes: x --- \# y, \<script\>, \[a\](b)." in card
    assert r"a \[b\]" in card
    assert r"\<script>x\</script> !\[y](http://z) \<" in card
    assert "|---|---:|\n| mlm_loss | 2.5000 |\n\n## Recipe" in card
    fence = re.search(r"^(`+)yaml$", card, re.MULTILINE)
    assert fence is not None
    assert len(fence[1]) > 3
