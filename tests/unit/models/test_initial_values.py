"""Runs that start from the statistics of their store: ``model.initialization: corpus``."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import RunConfig
from bert_jax.config.stores import MixedStore
from bert_jax.nn.corpus_values import corpus_params, corpus_values, head_offsets
from bert_jax.nn.encoder import define
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import BadInputError
from bert_jax.training import metrics
from bert_jax.training.checkpoint import newest_meta
from bert_jax.training.checksums import digest
from bert_jax.training.partitioner import Partitioner
from pipelines.data.store import cooccurrence
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.folders import INITIAL_VALUES, INITIAL_VALUES_DRAFT
from pipelines.models import initial_values
from pipelines.models.initial_values import corpus_start
from pipelines.models.open import open_model
from pipelines.pretraining import pretrain


@pytest.fixture
def corpus_config(config: RunConfig) -> RunConfig:
    """Two steps from corpus statistics."""
    model = replace(config.model, initialization="corpus", hidden_dropout=0, attention_dropout=0)
    train = replace(config.train, steps=2, eval_every=2)
    return replace(config, model=model, train=train, phases=config.phases[:1])


def initial_state(config: RunConfig, store: Store, count: int = 1) -> Any:
    folder = Path(config.run_dir)
    folder.mkdir(exist_ok=True)
    partitioner = Partitioner(devices()[:count])
    return corpus_start(config, partitioner, None, {"": (1.0, store)}).state()


def occurrences(store: Store, vocab_size: int) -> np.ndarray:
    tokens = np.concatenate([tokens for _, tokens in store.split("train").shards()])
    return np.bincount(tokens, minlength=vocab_size)


def one_device(config: RunConfig) -> None:
    pretrain(config, Partitioner(devices()[:1]))


def test_the_parts_of_the_initial_values(corpus_config: RunConfig, store: Store) -> None:
    params = jax.device_get(initial_state(corpus_config, store).params)
    R, mask = corpus_config.model.position_dimensions, store.tokenizer.mask_id
    embeddings = params["bert"]["embeddings"]
    tokens = embeddings["token"]
    for zeros in (tokens[:, :R], tokens[mask], embeddings["segment"][:, :R]):
        assert not zeros.any()
    assert not embeddings["position"][:, R:].any()
    assert np.abs(np.linalg.norm(embeddings["position"], axis=1) - 0.1 * R**0.5).max() < 1e-6
    # [CLS] and [SEP] do not occur in a store, and are different from each other.
    assert np.linalg.norm(tokens[store.tokenizer.cls_id] - tokens[store.tokenizer.sep_id]) > 0.1
    counts = occurrences(store, corpus_config.model.vocab_size) + 0.5
    expected = np.log(counts) - np.log(counts).mean()
    assert np.abs(params["mlm"]["bias"] - expected).max() < 1e-5
    assert not params["bert"]["layers"]["feed_forward"]["output"]["kernel"].any()
    diagonal = np.diag(params["mlm"]["transform"]["kernel"])
    assert abs(diagonal.mean() - 0.3) < 0.02


@pytest.mark.parametrize("preset", ["bert-tiny", "bert-mini", "bert-base", "bert-large"])
def test_heads_of_the_first_layer_attend_to_their_offset(preset: str) -> None:
    """For every number of heads, and with tokens of any kind."""
    config = ModelConfig(preset=preset, vocab_size=50, max_positions=64, dtype="float32", layers=1)
    config = replace(config, initialization="corpus").resolved()
    rng, T = np.random.default_rng(0), 48
    vectors = rng.standard_normal((50, config.hidden_size - config.position_dimensions))
    values = corpus_values(config, np.ones(50), vectors.astype(np.float32), mask_id=4, seed=0)
    params = jax.jit(lambda x: corpus_params(config, 0, x))(values)
    ids = rng.integers(5, 50, (2, T))
    model = nnx.merge(define(config), params).bert
    # [B, N, T, S]
    probabilities = np.asarray(model.attention_probabilities(ids, 0 * ids, 1 + 0 * ids)[0])
    assert len(set(head_offsets(config.heads))) == config.heads
    for head, offset in enumerate(head_offsets(config.heads)):
        positions = np.arange(max(0, -offset), min(T, T - offset))
        chosen = np.argmax(probabilities[:, head], axis=-1)[:, positions]
        assert np.mean(chosen == positions + offset) > 0.95, (head, offset)
        assert np.mean(probabilities[:, head, positions, positions + offset]) > 0.3


def test_vectors_of_tokens_in_the_same_contexts_are_close() -> None:
    """Tokens 0 and 1 stand between the same tokens, 2 and 3 between others."""
    rng = np.random.default_rng(0)
    groups = {0: range(10, 20), 1: range(10, 20), 2: range(20, 30), 3: range(20, 30)}
    text = [
        token
        for center in rng.integers(0, 4, 4000)
        for token in (rng.choice(groups[center]), center, rng.choice(groups[center]))
    ]
    pairs = cooccurrence._pairs(np.array(text, np.int32), 1, 40)
    vectors = cooccurrence.vectors(pairs, 6, seed=0)
    assert not vectors[30:].any()
    unit = vectors[:4] / np.linalg.norm(vectors[:4], axis=1, keepdims=True)
    similarity = unit @ unit.T
    assert min(similarity[0, 1], similarity[2, 3]) > similarity[0, 2] + 0.3


def test_the_initial_state_depends_on_store_seed_and_config_alone(
    corpus_config: RunConfig, store: Store, tmp_path: Path
) -> None:
    digests = []
    for count in (1, 2, 8):
        config = replace(corpus_config, run_dir=str(tmp_path / f"run{count}"))
        digests.append(digest(initial_state(config, store, count).params))
    other = replace(corpus_config, run_dir=str(tmp_path / "other"), seed=1)
    assert len(set(digests)) == 1
    assert digest(initial_state(other, store).params) != digests[0]


def test_training_from_corpus_statistics(corpus_config: RunConfig, trained: Path) -> None:
    """The first losses are far below those of random values, and the network is the same."""
    one_device(corpus_config)
    run = Path(corpus_config.run_dir)
    losses = [x["mlm_loss"] for x in metrics.read(run) if "mlm_loss" in x]
    random = [x["mlm_loss"] for x in metrics.read(trained) if "mlm_loss" in x]
    assert losses[0] < random[0] - 0.2
    shapes = [
        jax.tree.map(np.shape, open_model(path, Partitioner(devices()[:1])).weights.params)
        for path in (run, trained)
    ]
    assert shapes[0] == shapes[1]
    meta = newest_meta(run)
    assert meta is not None
    assert len(meta.data[INITIAL_VALUES]) == 64


def test_a_resumed_run_reads_its_values_and_never_computes_them(
    corpus_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_device(corpus_config)
    monkeypatch.setattr(initial_values, "_compute", lambda *_: pytest.fail("computed again"))
    longer = replace(corpus_config, train=replace(corpus_config.train, steps=3))
    one_device(longer)
    run = Path(corpus_config.run_dir)
    path = run / INITIAL_VALUES
    original = path.read_bytes()
    values, origin = initial_values._read(path)
    values["bias"][0] += 1
    initial_values._write(path, values, origin)
    with pytest.raises(BadInputError, match=INITIAL_VALUES):
        one_device(longer)
    path.write_bytes(original[:100])
    with pytest.raises(BadInputError, match=INITIAL_VALUES):
        one_device(longer)
    path.unlink()  # a run with a checkpoint needs it no longer
    one_device(longer)
    assert not path.exists()


def test_a_run_that_was_killed_while_it_counted_starts_again(
    corpus_config: RunConfig, store: Store, tmp_path: Path
) -> None:
    folder = Path(corpus_config.run_dir)
    folder.mkdir()
    (folder / INITIAL_VALUES_DRAFT).write_bytes(b"half")
    one_device(corpus_config)
    assert not (folder / INITIAL_VALUES_DRAFT).exists()
    again = replace(corpus_config, run_dir=str(tmp_path / "again"))
    initial_state(again, store)
    values = [
        initial_values._read(Path(x.run_dir) / INITIAL_VALUES) for x in (corpus_config, again)
    ]
    assert digest(values[0][0]) == digest(values[1][0])


def test_values_of_another_run_are_refused(corpus_config: RunConfig, store: Store) -> None:
    initial_state(corpus_config, store)
    with pytest.raises(BadInputError, match="seed"):
        one_device(replace(corpus_config, seed=1))


def test_a_mixture_counts_every_store_by_its_fraction(
    corpus_config: RunConfig, corpus: Path, store_dir: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    other_dir = tmp_path / "other"
    shutil.copy(corpus, tmp_path / "other.txt")
    prepare([f"text:{tmp_path / 'other.txt'}"], tokenizer_dir, other_dir, 0.3)
    entries = MixedStore(str(store_dir), fraction=0.25), MixedStore(str(other_dir), fraction=0.75)
    data = replace(corpus_config.data, store="", stores=entries)
    one_device(replace(corpus_config, data=data))
    V, stores = corpus_config.model.vocab_size, (Store(store_dir), Store(other_dir))
    counts = cooccurrence.count(list(zip((0.25, 0.75), stores, strict=True)), 0).tokens
    first, second = (occurrences(store, V) for store in stores)
    total = first.sum() + second.sum()
    assert np.allclose(counts / total, 0.25 * first / first.sum() + 0.75 * second / second.sum())


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("encoder", {"encoder": "lstm"}),
        ("encoder", {"encoder": "left-to-right"}),
        ("hidden_size", {"hidden_size": 16}),
        ("hidden_size", {"hidden_size": 64, "heads": 16}),
        ("initializer_range", {"initializer_range": 0.1}),
    ],
)
def test_networks_that_cannot_start_from_a_corpus(
    corpus_config: RunConfig, key: str, values: dict[str, Any]
) -> None:
    with pytest.raises(BadInputError, match=key) as error:
        replace(corpus_config, model=replace(corpus_config.model, **values))
    assert "\n" not in str(error.value)


def test_other_models_and_small_texts_are_refused(
    corpus_config: RunConfig, store: Store, trained: Path
) -> None:
    with pytest.raises(BadInputError, match="init"):
        replace(corpus_config, init=str(trained))
    wide = replace(corpus_config.model, hidden_size=1024, heads=16)
    with pytest.raises(BadInputError, match="too small"):
        one_device(replace(corpus_config, model=wide))
    assert not (Path(corpus_config.run_dir) / INITIAL_VALUES).exists()
    with pytest.raises(BadInputError, match="memory"):
        cooccurrence.check_memory(10**9, 992)


def test_sampling_reads_whole_shards_in_an_order_of_the_seed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooccurrence, "_SAMPLE", 500)
    first, again, other = (cooccurrence.count([(1.0, store)], seed) for seed in (0, 0, 1))
    assert first.tokens.sum() == other.tokens.sum() == 500
    assert np.array_equal(first.tokens, again.tokens)
    assert (first.pairs != again.pairs).nnz == 0
