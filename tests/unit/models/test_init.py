"""Runs that begin with the weights of another model."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config.run import DataConfig, OptimizerConfig, Phase, RunConfig
from bert_jax.nn.encoder import define
from bert_jax.nn.tensor_names import ModelWeights, only
from bert_jax.runtime.distributed import devices
from bert_jax.training import metrics
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.step import forward, means, pretraining_sums
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.models.formats import hugging_face
from pipelines.models.open import open_model
from pipelines.pretraining import pretrain
from support.commands import ROOT, invoke, refused

THEIRS = ROOT / "tests/golden/hugging_face"
WORDS = ["the", "man", "and", "the", "milk", "in", "a", "store", "on", "cab", "bad", "fad", "dad"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of the few words and letters that the vocabulary of the golden knows."""
    rng = random.Random(0)  # noqa: S311
    documents = [
        "\n".join(" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) + "." for _ in range(8))
        for _ in range(40)
    ]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def their_store(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store made with the tokenizer of the model, named by the model."""
    folder = tmp_path_factory.mktemp("their_store")
    prepare([f"text:{text}"], THEIRS, folder, 0.1)
    return folder


def options(store: Path, run: Path, steps: int = 6, **more: Any) -> list[str]:
    values = {
        "data.store": store,
        "run_dir": run,
        "model.dtype": "float32",
        "model.hidden_dropout": 0.0,
        "model.attention_dropout": 0.0,
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 1,
        "train.log_every": 1,
        "train.eval_every": 0,
        "checkpoint.every": 2,
        "phases": f"[{{length: 24, steps: {steps}, batch_size: 4}}]",
    } | {key.replace("__", "."): value for key, value in more.items()}
    return [str(word) for key, value in values.items() for word in (f"--{key}", value)]


def test_the_run_begins_with_the_weights_and_resumes_without_the_model(
    tmp_path: Path, their_store: Path
) -> None:
    whole, cut, model = tmp_path / "whole", tmp_path / "cut", tmp_path / "model"
    shutil.copytree(THEIRS, model)
    init = ("--init", str(model))
    straight = invoke("pretrain", *options(their_store, whole), *init)
    assert straight.returncode == 0, straight.stderr
    assert f"weights from {model} (BertForPreTraining); the run starts at step 0" in straight.stderr
    # The loss before the first update is that of the weights on the first batch.
    read = hugging_face.read(THEIRS)
    config = RunConfig(run_dir="-", model=read.config, phases=(Phase(24, 6, 4),))
    arrays = PretrainingData(Store(their_store), config).batch_at(0).arrays
    batch = {name: jnp.array(array) for name, array in arrays.items()}
    logits = forward(define(read.config), read.params, batch, None)
    expected = means(pretraining_sums(logits, batch))["loss"]
    first = metrics.read(whole)[0]
    assert first["step"] == 1
    assert first["loss"] == pytest.approx(float(expected), rel=1e-5)
    # Cut off half-way and gone on with when the model is no longer there.
    plan = ("--phases", "[{length: 24, steps: 6, batch_size: 4}]", "--train.steps")
    started = invoke("pretrain", *options(their_store, cut), *init, *plan, "3")
    assert started.returncode == 0, started.stderr
    shutil.rmtree(model)
    resumed = invoke("pretrain", *options(their_store, cut), *init, *plan, "6")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming at step 3" in resumed.stderr
    again = invoke("pretrain", *options(their_store, cut), "--init", f"{model}/")
    assert again.returncode == 0, again.stderr  # the same model, written in another way
    refused(invoke("pretrain", *options(their_store, cut)), 78, f"started with --init {model}")
    refused(invoke("pretrain", *options(their_store, tmp_path / "new"), *init), 78, "not exist")
    assert not (tmp_path / "new").exists()


def test_a_run_that_started_without_a_model_rejects_init(
    their_store: Path, store: Store, trained: Path
) -> None:
    values = options(Path(store.folder), trained)
    refused(invoke("pretrain", *values, "--init", THEIRS), 78, "started without --init")


def test_heads_that_the_model_lacks_are_fresh(tmp_path: Path, their_store: Path) -> None:
    folder = tmp_path / "encoder"
    read = hugging_face.read(THEIRS)
    bare = only(read.params, frozenset({"encoder"}))
    folder.mkdir()
    hugging_face.write(folder, ModelWeights(bare, read.config, "BertModel"), 0)
    shutil.copy(THEIRS / "vocab.txt", folder)
    run = tmp_path / "run"
    made = invoke(
        "pretrain", *options(their_store, run, 1, optimizer__learning_rate=0.0), "--init", folder
    )
    assert made.returncode == 0, made.stderr
    assert "new weights for missing parts: mlm, nsp, pooler" in made.stderr
    params = open_model(run, Partitioner(devices()[:1])).weights.params
    jax.tree.map(np.testing.assert_array_equal, only(params, frozenset({"encoder"})), bare)
    assert np.std(params["nsp"]["classifier"]["kernel"]) > 0


def test_a_mismatch_is_reported_in_one_line(
    tmp_path: Path, their_store: Path, store_dir: Path
) -> None:
    run, init = tmp_path / "run", ("--init", THEIRS)

    def asked(store: Path = their_store, **more: Any) -> Any:
        return invoke("pretrain", *options(store, run, **more), *init)

    refused(asked(model__hidden_size=64), 78, "model.hidden_size", "64", "32")
    refused(asked(model__preset="bert-tiny"), 78, "model.hidden_size 128")
    refused(asked(model__vocab_size=99), 78, "model.vocab_size 99", "70")
    refused(asked(model__max_positions=30), 78, "model.max_positions 30", "40")
    refused(asked(model__encoder="lstm"), 78, "model.encoder lstm", "transformer")
    refused(asked(phases="[{length: 64, steps: 2}]"), 78, "max_positions 40")
    refused(asked(store_dir), 78, "another tokenizer", f"--tokenizer {THEIRS}", "extend-tokenizer")
    assert not run.exists()


class Extended(NamedTuple):
    """A model whose vocabulary was extended, and a store of the new one."""

    model: Path
    store: Path
    former: dict[int, list[int]]  # new token -> former pieces

    def rows(self, run: Path) -> np.ndarray:
        params = open_model(run, Partitioner(devices()[:1])).weights.params
        return np.asarray(params["bert"]["embeddings"]["token"])


@pytest.fixture(scope="module")
def extended(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    folder = tmp_path_factory.mktemp("extended")
    model = folder / "model"
    shutil.copytree(THEIRS, model)
    # The vocabulary of the golden has no free places; its last tokens become such.
    pieces = (model / "vocab.txt").read_text("utf-8").split()
    pieces[-3:] = ["[unused1]", "[unused2]", "[unused3]"]
    (model / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    words = ["cab", "fad", "dab"]  # the last does not occur in the text
    (folder / "words.txt").write_text("\n".join(words), "utf-8")
    made = invoke("extend-tokenizer", model, "--list", folder / "words.txt", "--out", folder / "to")
    assert made.returncode == 0, made.stderr
    assert tokenizers.load(folder / "to").pieces[67:] == words
    prepare([f"text:{text}"], folder / "to", folder / "store", 0.0)
    letters = [[word[0], f"##{word[1]}", f"##{word[2]}"] for word in words]
    former = {67 + n: [pieces.index(x) for x in letters[n]] for n in range(3)}
    return Extended(model, folder / "store", former)


def test_new_words_begin_as_the_mean_of_their_pieces(tmp_path: Path, extended: Extended) -> None:
    run = tmp_path / "run"
    still = options(extended.store, run, 1, optimizer__learning_rate=0.0)
    made = invoke("pretrain", *still, "--init", extended.model)
    assert made.returncode == 0, made.stderr
    assert "3 new tokens" in made.stderr
    before, after = extended.rows(extended.model), extended.rows(run)
    for token, pieces in extended.former.items():
        assert np.allclose(after[token], before[pieces].mean(axis=0), atol=1e-7)
    untouched = np.delete(np.arange(70), list(extended.former))
    assert np.array_equal(after[untouched], before[untouched])


def test_new_words_that_occur_begin_from_their_contexts(
    tmp_path: Path, extended: Extended, all_devices: Partitioner
) -> None:
    config = RunConfig(
        run_dir=str(tmp_path / "8"),
        init=str(extended.model),
        new_tokens="corpus",
        data=DataConfig(store=str(extended.store)),
        optimizer=OptimizerConfig(learning_rate=0.0),
        phases=(Phase(24, 1, 8),),
    )
    pretrain(config, all_devices)
    pretrain(replace(config, run_dir=str(tmp_path / "1")), Partitioner(devices()[:1]))
    before, after = extended.rows(extended.model), extended.rows(tmp_path / "8")
    assert np.array_equal(after, extended.rows(tmp_path / "1"))
    means = {token: before[pieces].mean(axis=0) for token, pieces in extended.former.items()}
    close = {token: np.allclose(after[token], mean, atol=1e-7) for token, mean in means.items()}
    assert close == {67: False, 68: False, 69: True}
    untouched = np.delete(np.arange(70), list(extended.former))
    assert np.array_equal(after[untouched], before[untouched])


def test_a_run_whose_new_words_began_from_contexts_resumes(
    tmp_path: Path, extended: Extended
) -> None:
    whole, cut, model = tmp_path / "whole", tmp_path / "cut", tmp_path / "model"
    shutil.copytree(extended.model, model)

    def result(run: Path, steps: int, new_tokens: str = "corpus") -> Any:
        plan = (*options(extended.store, run, 4), "--train.steps", str(steps))
        return invoke("pretrain", *plan, "--init", model, "--new_tokens", new_tokens)

    for run, steps in ((whole, 4), (cut, 2)):
        made = result(run, steps)
        assert made.returncode == 0, made.stderr
    shutil.rmtree(model)
    refused(result(cut, 4, "pieces"), 78, "new_tokens")
    resumed = result(cut, 4)
    assert resumed.returncode == 0, resumed.stderr
    assert np.array_equal(extended.rows(cut), extended.rows(whole))


def test_contexts_need_a_model_and_new_words(
    tmp_path: Path, their_store: Path, store: Store
) -> None:
    contexts = ("--new_tokens", "corpus")
    run = tmp_path / "run"
    refused(invoke("pretrain", *options(store.folder, run), *contexts), 78, "new_tokens")
    started = ("pretrain", *options(their_store, run), "--init", THEIRS)
    refused(invoke(*started, *contexts), 78, "new_tokens")
    assert not run.exists()
