"""Equality with the published code, whose outputs, gradients and updates are goldens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bert_jax
from bert_jax.config.run import OptimizerConfig, Phase
from bert_jax.nn.encoder import BertForPreTraining, define
from bert_jax.nn.tensor_names import ModelWeights, from_tensors, named_leaves
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.training.optimizers import learning_rate, optimizer
from bert_jax.training.step import forward, pretraining_sums
from pipelines.models.formats import google_research
from support.commands import ROOT

GOLDEN = ROOT / "tests/golden"
FOLDER = GOLDEN / "tf1"


@pytest.fixture(scope="module")
def published() -> ModelWeights:
    return google_research.read(FOLDER)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "expected.npz"))


@pytest.fixture(scope="module")
def batch(expected: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Return the inputs of the golden under the names of this project."""
    names = {
        "token_ids": "input_ids",
        "token_type_ids": "segment_ids",
        "segment_ids": "input_mask",
        "mlm_positions": "masked_lm_positions",
        "mlm_targets": "masked_lm_ids",
        "mlm_weights": "masked_lm_weights",
        "nsp_labels": "next_sentence_labels",
    }
    arrays = {ours: jnp.array(expected[theirs]) for ours, theirs in names.items()}
    return arrays | {"nsp_weights": jnp.ones(arrays["nsp_labels"].shape)}


def difference(ours: jax.Array, theirs: np.ndarray, where: Any = slice(None)) -> float:
    return float(np.abs(np.array(ours) - theirs)[where].max())


def test_every_stage_is_that_of_the_published_code(
    published: ModelWeights, expected: dict[str, np.ndarray], batch: dict[str, jax.Array]
) -> None:
    model: BertForPreTraining = nnx.merge(define(published.config), published.params)
    ids = [batch[name] for name in ("token_ids", "token_type_ids", "segment_ids")]
    last, inputs = model.bert.hidden_states(*ids)
    # Hidden states of padding are never used.
    real = expected["input_mask"] > 0
    assert difference(inputs[0], expected["embedding_output"], real) <= 1e-5
    assert difference(inputs[1], expected["encoder_layers"][0], real) <= 1e-5
    assert difference(last, expected["encoder_layers"][1], real) <= 1e-5
    assert difference(model.bert.pool(last)[:, 0], expected["pooled_output"]) <= 1e-5
    logits = forward(define(published.config), published.params, batch, None)
    used = expected["masked_lm_weights"] > 0
    assert difference(jax.nn.log_softmax(logits.mlm), expected["mlm_log_probs"], used) <= 1e-5
    assert difference(jax.nn.log_softmax(logits.nsp)[:, 0], expected["nsp_log_probs"]) <= 1e-5


def test_losses_and_the_gradient_of_every_variable_are_theirs(
    published: ModelWeights, expected: dict[str, np.ndarray], batch: dict[str, jax.Array]
) -> None:
    def losses(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        sums = pretraining_sums(forward(define(published.config), params, batch, None), batch)
        # Their denominator of the masked loss is 1e-5 larger than the number of predictions.
        mlm, nsp = sums["mlm"], sums["nsp"]
        both = mlm.loss / (mlm.count + 1e-5), nsp.loss / nsp.count
        return sum(both), both  # type: ignore[return-value]

    (_, both), grads = jax.jit(jax.value_and_grad(losses, has_aux=True))(published.params)
    assert float(both[0]) == pytest.approx(float(expected["mlm_loss"]), abs=1e-5)
    assert float(both[1]) == pytest.approx(float(expected["nsp_loss"]), abs=1e-5)
    named = {
        name.removeprefix("gradient/"): array
        for name, array in expected.items()
        if name.startswith("gradient/")
    }
    theirs = dict(
        named_leaves(
            from_tensors(named, "google_research", "BertForPreTraining", published.config, "golden")
        )
    )
    assert theirs.keys() == dict(named_leaves(grads)).keys()
    largest = max(np.abs(grad).max() for grad in theirs.values())
    for name, ours in named_leaves(grads):
        # Biases of keys have no effect: their gradient is 0 except for rounding.
        allowed = 1e-7 * largest if name.endswith("key/bias") else 1e-4 * np.abs(theirs[name]).max()
        assert difference(ours, theirs[name]) <= allowed, name


def test_fifty_updates_of_the_published_optimizer() -> None:
    golden = np.load(GOLDEN / "optimizer.npz")
    names = {  # theirs -> ours, by which decay is decided
        "bert/embeddings/word_embeddings": "token",
        "bert/encoder/layer_0/output/dense/kernel": "kernel",
        "bert/encoder/layer_0/output/dense/bias": "bias",
        "bert/encoder/layer_0/output/LayerNorm/gamma": "norm",
    }

    def tree(prefix: str, step: int | None = None) -> optax.Params:
        arrays = {ours: golden[f"{prefix}/{theirs}"] for theirs, ours in names.items()}
        arrays = {k: jnp.array(a if step is None else a[step]) for k, a in arrays.items()}
        return arrays | {"norm": {"scale": arrays["norm"]}}

    config = OptimizerConfig(recipe="bert2018", learning_rate=0.02, warmup_steps=10)
    rule, rate = optimizer(config, (Phase(steps=50),)), learning_rate(config, 50)
    params = tree("initial")
    state = rule.init(params)
    for step in range(50):
        scale = rate(jnp.float32(step))
        assert float(scale) == pytest.approx(golden["learning_rates"][step], abs=1e-7)
        gradients = tree("gradient", step)
        updates, state = rule.update(gradients, state, params, step=jnp.int32(step))
        params = optax.apply_updates(params, updates)
        after = dict(named_leaves(tree("after", step)))
        for name, ours in named_leaves(params):
            assert difference(ours, after[name]) <= 1e-6, (step, name)


def test_their_folder_is_a_model_everywhere(expected: dict[str, np.ndarray]) -> None:
    model = bert_jax.load(FOLDER)
    (answers,) = model.fill_mask("the man went to the [MASK].", top_k=3)
    assert len(answers) == 3
    states = model.encode(["the man", "a store and milk in it"], layer=0, pooling=None)
    assert [s.shape[1] for s in states] == [32, 32]
    assert model.encode(["the man"]).shape == (1, 32)  # type: ignore[union-attr]
    with pytest.raises(BadArgumentsError, match="surrogate"):
        model.encode(["half \ud800"])
    with pytest.raises(BadArgumentsError, match="must be strings, not None"):
        model.encode([None])  # type: ignore[list-item]


def copy(folder: Path) -> Path:
    shutil.copytree(FOLDER, folder)
    return folder


def test_training_checkpoints_are_read_too(tmp_path: Path, published: ModelWeights) -> None:
    folder = copy(tmp_path / "output")
    for file in list(folder.glob("bert_model.ckpt.*")):
        for step in ("20", "100"):
            shutil.copy(file, folder / file.name.replace("bert_model.ckpt", f"model.ckpt-{step}"))
        file.unlink()
    (folder / "model.ckpt-20.index").write_bytes(b"older, and damaged")
    again = google_research.read(folder)
    assert np.array_equal(
        again.params["bert"]["embeddings"]["token"], published.params["bert"]["embeddings"]["token"]
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_size", 34, "word_embeddings has shape [70, 32], but the config needs [70, 34]"),
        (
            "num_hidden_layers",
            1,
            "layer_1/attention/self/query/kernel, but the config has 1 layers",
        ),
        ("num_hidden_layers", 3, "no tensor bert/encoder/layer_2/attention/self/query/kernel"),
        ("vocab_size", 71, "[70, 32], but the config needs [71, 32]"),
        ("num_attention_heads", 5, "not a multiple"),
        ("num_hidden_layers", 10**9, "num_hidden_layers must be a whole number"),
        ("hidden_size", "32", "hidden_size must be a whole number"),
        ("hidden_act", "swish", "hidden_act 'swish'"),
        ("hidden_dropout_prob", -1, "hidden_dropout_prob"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(
    tmp_path: Path, key: str, value: object, words: str
) -> None:
    folder = copy(tmp_path / "model")
    config = json.loads((folder / "bert_config.json").read_text("utf-8"))
    (folder / "bert_config.json").write_text(json.dumps(config | {key: value}), "utf-8")
    with pytest.raises(BadInputError) as refused:
        google_research.read(folder)
    assert words in str(refused.value)
    assert str(folder) in str(refused.value)


def test_files_that_are_missing_or_damaged(tmp_path: Path) -> None:
    folder = copy(tmp_path / "model")
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:-100])
    with pytest.raises(BadInputError, match=r"data-00000-of-00001.*damaged"):
        google_research.read(folder)
    data.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with pytest.raises(BadInputError, match=r"checksum of 'bert/embeddings"):
        google_research.read(folder)
    for file in folder.glob("*.index"):
        file.unlink()
    with pytest.raises(BadInputError, match=r"has no bert_model\.ckpt\.index"):
        google_research.read(folder)
    (folder / "bert_config.json").write_text("{", "utf-8")
    with pytest.raises(BadInputError, match=r"bert_config\.json is not JSON"):
        google_research.read(folder)
