"""Multi-label classification is that of transformers and PyTorch, on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="extra parity is not installed")
transformers = pytest.importorskip("transformers", reason="extra parity is not installed")

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from safetensors.numpy import load_file

import bert_jax
from bert_jax.config.task_head import HeadConfig
from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.nn.tensor_names import to_hugging_face
from pipelines.models.open import LoadedModel, open_model
from pipelines.tasks.multi_label.task import MultiLabel
from pipelines.tasks.task import Columns, Features
from support.commands import ROOT, invoke
from support.task_files.multi_label import write

LABELS = ["drink", "food", "place", "never"]
ARCHITECTURE = "BertForSequenceClassification"
NEAR = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``model`` of transformers and ``a.jsonl``."""
    transformers.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("multi-label")
    vocabulary = (ROOT / "tests/golden/hugging_face/vocab.txt").read_text("utf-8")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary.split()),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=40,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
        problem_type="multi_label_classification",
        initializer_range=0.3,
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.linspace(-1.0, 1.0, len(LABELS)))
    model.save_pretrained(folder / "model")
    (folder / "model/vocab.txt").write_text(vocabulary, "utf-8")
    write(folder / "a.jsonl", 21, 0)
    return folder


def rows(folder: Path) -> tuple[LoadedModel, Features]:
    model, task = open_model(folder / "model"), MultiLabel()
    examples = task.read(str(folder / "a.jsonl"), Columns(), labeled=True)
    return model, task.features(examples, model.tokenizer(), 32, LABELS)


def their_outputs(model: Any, features: Features) -> Any:
    arrays = {n: torch.tensor(array).long() for n, array in features.arrays.items()}
    return model(
        input_ids=arrays["token_ids"],
        token_type_ids=arrays["token_type_ids"],
        attention_mask=arrays["segment_ids"],
        labels=arrays["labels"].float(),
    )


def test_loss_and_gradients_are_theirs(folder: Path) -> None:
    model, features = rows(folder)
    assert model.weights.labels == tuple(LABELS)
    network = TaskNetwork(model.network, HeadConfig(), len(LABELS), tokens=False)
    batch = {name: jnp.array(array) for name, array in features.arrays.items()}

    def loss(params: Any) -> Any:
        sums = MultiLabel().objective(nnx.merge(network.define(), params)(batch, None), batch)
        return sums.loss / sums.count

    params = {name: model.weights.params[name] for name in ("bert", "head")}
    ours, gradient = jax.value_and_grad(loss)(params)
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder / "model").eval()
    output = their_outputs(theirs, features)
    output.loss.backward()
    assert float(ours) == pytest.approx(output.loss.item(), abs=NEAR)
    named = dict(theirs.named_parameters())
    for name, array in to_hugging_face(gradient, ARCHITECTURE).items():
        np.testing.assert_allclose(array, named[name].grad.numpy(), atol=NEAR, err_msg=name)


def test_probabilities_and_labels_are_those_of_the_pipeline(folder: Path) -> None:
    records = bert_jax.load(folder / "model").predict(folder / "a.jsonl")
    pipeline = transformers.pipeline(
        "text-classification",
        model=str(folder / "model"),
        tokenizer=transformers.BertTokenizerFast(str(folder / "model/vocab.txt")),
        top_k=None,
    )
    texts = [json.loads(line)["text"] for line in (folder / "a.jsonl").read_text().splitlines()]
    for record, answer in zip(records, pipeline(texts), strict=True):
        theirs = {item["label"]: item["score"] for item in answer}
        assert record["probabilities"] == pytest.approx(theirs, abs=NEAR)
        assert record["labels"] == [name for name in LABELS if theirs[name] >= 0.5]


def test_there_and_back_changes_nothing(folder: Path, tmp_path: Path) -> None:
    for source, form in ((folder / "model", "bert-jax"), (tmp_path / "bert-jax", "hf")):
        result = invoke("convert", source, tmp_path / form, "--to", form)
        assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "hf/config.json").read_text("utf-8"))
    assert written["problem_type"] == "multi_label_classification"
    before, after = (
        load_file(path / "model.safetensors") for path in (folder / "model", tmp_path / "hf")
    )
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    assert model.config.problem_type == "multi_label_classification"
    _, features = rows(folder)
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder / "model").eval()
    losses = [their_outputs(network, features).loss.item() for network in (model, theirs)]
    assert losses[0] == losses[1]


def test_thresholds_in_the_config_do_not_hinder_transformers(folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from pipelines.models.convert import convert

    model = open_model(folder / "model")
    weights = replace(model.weights, thresholds=(0.25, 0.5, 0.75, 0.5))
    convert(replace(model, weights=weights), tmp_path / "hf", "hf")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert config.label_thresholds == [0.25, 0.5, 0.75, 0.5]
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    assert open_model(tmp_path / "hf").weights.thresholds == weights.thresholds
