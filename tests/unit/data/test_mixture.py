"""Mixtures of stores: order, fractions, resume and held-out losses."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config.run import DataConfig, Phase, RunConfig, as_dict
from bert_jax.config.stores import MixedStore
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import BadInputError, PreemptedError
from bert_jax.training import metrics
from bert_jax.training.batch import FIELDS, Batch
from bert_jax.training.evaluate import mean_of_stores
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.batches.mixture import BLOCK, MixedData
from pipelines.data.store.card import CARD
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.vocabulary import train_vocabulary
from pipelines.folders import DATA_CARD
from pipelines.pretraining import pretrain
from pipelines.settings import config_from_dict, run_config
from support.commands import inspected, invoke, refused, write_config
from support.corpora import VOCABULARY, write_corpus
from support.shared import Shared

FRACTIONS = {"large": 0.6, "middle": 0.3, "small": 0.1}


@pytest.fixture(scope="session")
def stores(tokenizer_dir: Path, shared: Shared) -> Path:
    """A folder with a store for each key of FRACTIONS."""

    def build(folder: Path) -> None:
        for seed, (name, documents) in enumerate({"large": 60, "middle": 30, "small": 12}.items()):
            corpus = write_corpus(folder / f"{name}.txt", documents, seed + 7)
            prepare([f"text:{corpus}"], tokenizer_dir, folder / name, 0.2)

    return shared("mixture", build)


def mixture_of(config: RunConfig, stores: Path) -> RunConfig:
    entries = tuple(MixedStore(str(stores / name), x) for name, x in FRACTIONS.items())
    data = replace(config.data, store="", stores=entries)
    return replace(config, data=data, train=replace(config.train, eval_batches=0))


@pytest.fixture
def mixed(config: RunConfig, stores: Path) -> RunConfig:
    return mixture_of(config, stores)


def opened(config: RunConfig) -> MixedData:
    return MixedData([Store(Path(entry.path)) for entry in config.data.stores], config)


def with_entries(config: RunConfig, *entries: MixedStore) -> RunConfig:
    return replace(config, data=replace(config.data, stores=entries))


def equal(first: Batch, second: Batch) -> bool:
    names = first.arrays.keys() | second.arrays.keys()
    same = (np.array_equal(first.arrays[name], second.arrays[name]) for name in names)
    return (first.tokens, first.sequences) == (second.tokens, second.sequences) and all(same)


def test_each_store_supplies_its_fraction_of_any_span_of_rows(mixed: RunConfig) -> None:
    mixture = opened(mixed).examples(32)
    stores, numbers = mixture.positions(np.arange(2 * BLOCK))
    for number, fraction in enumerate(FRACTIONS.values()):
        is_store = stores == number
        assert is_store.sum() == round(2 * BLOCK * fraction)
        # The rows of a store are used in their order, without gap.
        assert np.array_equal(numbers[is_store], np.arange(is_store.sum()))
        used = np.cumsum(is_store)
        assert np.abs(used - fraction * np.arange(1, len(used) + 1)).max() < len(FRACTIONS)
    other_seed = opened(replace(mixed, seed=1)).examples(32).positions(np.arange(1000))[0]
    orders = (stores[:1000], stores[BLOCK : BLOCK + 1000], other_seed)
    assert len({order.tobytes() for order in orders}) == 3


@pytest.mark.parametrize("packing", [False, True])
def test_a_row_is_that_of_a_run_on_its_store_alone(mixed: RunConfig, packing: bool) -> None:
    config = replace(
        mixed, data=replace(mixed.data, packing=packing), phases=(Phase(length=64, steps=40),)
    )
    data = opened(config)
    alone = [PretrainingData(Store(Path(x.path)), config).examples(64) for x in config.data.stores]
    for step in (0, 17, 39):
        batch = data.batch_at(step)
        numbers = data.examples(64).positions(step * 8 + np.arange(8))
        for row, (store, number) in enumerate(zip(*numbers, strict=True)):
            expected = alone[store].batch(np.array([number]), slice(None))
            for name, array in expected.arrays.items():
                assert np.array_equal(batch.arrays[name][row], array[0]), name


def test_a_mixture_of_one_store_is_that_store(config: RunConfig, stores: Path) -> None:
    only = with_entries(replace(config, data=replace(config.data, store="")),
        MixedStore(str(stores / "large"), epochs=3))  # fmt: skip
    alone = PretrainingData(Store(stores / "large"), config)
    assert all(equal(opened(only).batch_at(step), alone.batch_at(step)) for step in (0, 7, 19))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_divide_one_batch(mixed: RunConfig, processes: int) -> None:
    data, size = opened(mixed), 8 // processes
    for step in (0, 7, 19):
        whole = data.batch_at(step)
        parts = [data.batch_at(step, slice(p * size, (p + 1) * size)) for p in range(processes)]
        for name in FIELDS:
            joined = np.concatenate([part.arrays[name] for part in parts])
            assert np.array_equal(joined, whole.arrays[name])
        assert {part.tokens for part in parts} == {whole.tokens}


def test_any_step_can_be_made_alone(mixed: RunConfig) -> None:
    streamed = list(opened(mixed).batches(0, 20))
    later = list(opened(mixed).batches(15, 20))
    assert all(equal(a, b) for a, b in zip(later, streamed[15:], strict=True))
    fresh = opened(mixed)
    assert all(equal(fresh.batch_at(step), streamed[step]) for step in (19, 3, 11))


def test_a_batch_may_cross_blocks_and_phases_of_one_length_continue(mixed: RunConfig) -> None:
    mixture = opened(mixed).examples(32)
    around = mixture.batch(np.arange(BLOCK - 4, BLOCK + 4), slice(None))
    parts = [mixture.batch(np.arange(BLOCK + n, BLOCK + n + 4), slice(None)) for n in (-4, 0)]
    for name in FIELDS:
        joined = np.concatenate([part.arrays[name] for part in parts])
        assert np.array_equal(around.arrays[name], joined)
    phases = (Phase(length=32, steps=4), Phase(length=16, steps=2), Phase(length=32, steps=3))
    cut = opened(replace(mixed, phases=tuple(replace(p, batch_size=8) for p in phases)))
    assert equal(cut.batch_at(6), opened(mixed).batch_at(4))


def test_epochs_are_relative_to_the_sizes_of_the_stores(mixed: RunConfig) -> None:
    entries = [
        MixedStore(entry.path, epochs=epochs)
        for entry, epochs in zip(mixed.data.stores, (1, 1, 4), strict=True)
    ]
    data = opened(with_entries(mixed, *entries))
    sizes = [len(store) for store in data.examples(32).stores]
    weights = np.array(sizes) * (1, 1, 4)
    assert list(data.fractions(32).values()) == pytest.approx(weights / weights.sum(), abs=2e-5)
    used = list(data.epochs(32, int(weights.sum())).values())
    assert used == pytest.approx([1, 1, 4], rel=1e-3)


def test_other_tokenizers_and_repeated_stores_are_refused(
    mixed: RunConfig, stores: Path, tmp_path: Path
) -> None:
    text = (stores / "small.txt").read_text("utf-8").splitlines()
    train_vocabulary("wordpiece", text, VOCABULARY, uncased=True).save(tmp_path / "tokenizer")
    prepare([f"text:{stores / 'small.txt'}"], tmp_path / "tokenizer", tmp_path / "other", 0.2)
    shutil.copytree(stores / "large", tmp_path / "again")
    large = MixedStore(str(stores / "large"), 0.5)
    for name, words in {"other": "another tokenizer", "again": "the same store"}.items():
        config = with_entries(mixed, large, MixedStore(str(tmp_path / name), 0.5))
        with pytest.raises(BadInputError, match=words):
            opened(config)
        result = invoke("pretrain", "--config", write_config(config, tmp_path))
        refused(result, 78, str(tmp_path / name), words)


@pytest.mark.parametrize(
    ("stores", "words"),
    [
        ("[{path: a, fraction: 0.5}, {path: b, fraction: 0.4}]", ["sum to 0.9"]),
        ("[{path: a, fraction: 0.5}, {path: b, epochs: 1}]", ["fractions", "epochs"]),
        ("[{path: a}]", ["a needs either a fraction or epochs"]),
        ("[{path: a, fraction: 0.5, epochs: 1}]", ["a needs either"]),
        ("[{fraction: 1}]", ["path"]),
        ("[{path: a, fraction: -1}]", ["fraction", "-1"]),
        ("[{path: a, epochs: .nan}]", ["epochs", "nan"]),
        ("[{path: a/x, fraction: 0.5}, {path: b/x, fraction: 0.5}]", ["two are named 'x'"]),
        ("[{path: a b, fraction: 1}]", ["'a b'", "name"]),
        ("[{path: a, fractoin: 1}]", ["data.stores.fractoin", "fraction"]),
        ("a", ["data.stores must be a list such as [{path"]),
    ],
)
def test_a_wrong_mixture_is_refused(stores: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"train: {{steps: 5}}\ndata: {{stores: {stores}}}\n", "utf-8"
    )
    options = ("--config", tmp_path / "config.yaml", "--run-dir", tmp_path / "run")
    refused(invoke("pretrain", *options), 78, *words)


def test_one_store_and_several_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("run_dir: a\ntrain: {steps: 5}\ndata: {store: b}\n")
    over = "base: base.yaml\ndata: {stores: [{path: c, fraction: 1}]"
    (tmp_path / "over.yaml").write_text(f"{over}}}\n")
    with pytest.raises(BadInputError, match=r"data\.store \(b\) and data\.stores"):
        run_config(["--config", str(tmp_path / "over.yaml")])
    (tmp_path / "over.yaml").write_text(f"{over}, store: ''}}\n")
    config = run_config(["--config", str(tmp_path / "over.yaml")])
    assert config.data.stores == (MixedStore("c", 1.0),)
    option = ["--data.stores", "[{path: d, epochs: 2}, {path: e, epochs: 1}]"]
    config = run_config(["--run_dir", "a", "--train.steps", "5", *option])
    assert [entry.label for entry in config.data.stores] == ["d", "e"]
    assert config_from_dict(json.loads(json.dumps(as_dict(config))), "x", RunConfig) == config


def test_a_config_of_one_store_is_saved_as_before(config: RunConfig) -> None:
    """Digests of submitted runs contain it."""
    assert set(as_dict(config)["data"]) == {*DataConfig.__dataclass_fields__} - {"stores"}


@pytest.fixture(scope="session")
def run_of_mixture(config_base: RunConfig, stores: Path, shared: Shared) -> Path:
    def build(folder: Path) -> None:
        run = mixture_of(replace(config_base, run_dir=str(folder / "run")), stores)
        result = invoke("pretrain", "--config", write_config(run, folder))
        assert result.returncode == 0, result.stderr
        assert "large 60.0% of the rows" in result.stderr

    return shared("run-of-mixture", build) / "run"


def test_held_out_losses_are_measured_on_each_store(run_of_mixture: Path) -> None:
    lines = [line for line in metrics.read(run_of_mixture) if metrics.is_evaluation(line)]
    assert [line["step"] for line in lines] == [10, 20]
    for line in lines:
        of_stores = [line[f"eval_mlm_loss/{name}"] for name in FRACTIONS]
        assert len(set(of_stores)) == 3
        mean = np.average(of_stores, weights=list(FRACTIONS.values()))
        assert line["eval_mlm_loss"] == pytest.approx(mean)
        assert line["eval_perplexity"] == pytest.approx(np.exp(mean))
    result = invoke(
        "evaluate", run_of_mixture, "--store", run_of_mixture.parents[1] / "none", "--json"
    )
    refused(result, 78, "none")
    refused(invoke("evaluate", run_of_mixture), 64, "--store", "large", "middle", "small")


def test_commands_read_one_store_of_a_mixture(
    run_of_mixture: Path, stores: Path, tmp_path: Path
) -> None:
    small = stores / "small"
    evaluated = invoke("evaluate", run_of_mixture, "--store", small, "--json")
    losses = json.loads(evaluated.stdout)
    last = metrics.read(run_of_mixture)[-1]
    assert last["step"] == losses["step"] == 20
    assert losses["mlm_loss"] == pytest.approx(last["eval_mlm_loss/small"], rel=1e-5)
    config = run_of_mixture / "config.yaml"
    shown = invoke("show-batch", small, "--config", config, "--rows", "1")
    assert shown.returncode == 0, shown.stderr
    card = (run_of_mixture / DATA_CARD).read_text("utf-8")
    assert [line for line in card.splitlines() if line.startswith("# ")] == [
        line for name in FRACTIONS for line in (stores / name / CARD).read_text().splitlines()[:1]
    ]
    converted = invoke("convert", run_of_mixture, tmp_path / "hf", "--to", "hf")
    assert converted.returncode == 0, converted.stderr
    readme = (tmp_path / "hf" / "README.md").read_text("utf-8")
    assert str(stores) not in readme.partition("## Data")[0]
    assert readme.count("Licence of the text") == 3
    assert "| mlm_loss/small |" in readme


def test_a_report_shows_the_data_of_one_store(
    run_of_mixture: Path, stores: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    report = ("report", run_of_mixture, "--output", page)
    assert invoke(*report).returncode == 0
    assert "the run mixes" in page.read_text("utf-8")
    assert invoke(*report, "--store", stores / "small").returncode == 0
    assert "the run mixes" not in page.read_text("utf-8")


def test_a_store_without_held_out_text_does_not_count() -> None:
    result = dict.fromkeys(("loss", "mlm_loss", "mlm_accuracy"), 2.0)
    result |= {"nsp_loss": None, "nsp_accuracy": None, "predictions": 3, "sequences": 1}
    other = result | {"loss": 4.0, "nsp_loss": 1.0}
    combined = mean_of_stores({"a": (0.25, result), "b": (0.25, other), "c": (0.5, {})})
    assert combined["loss"] == 3.0
    assert combined["nsp_loss"] == 1.0
    assert combined["nsp_accuracy"] is None
    assert combined["predictions"] == 6
    assert combined["loss/b"] == 4.0
    assert "loss/c" not in combined
    assert mean_of_stores({"c": (1.0, {})}) == {}


def test_a_resumed_run_equals_an_uninterrupted_one(mixed: RunConfig, run_of_mixture: Path) -> None:
    def on_step(done: int) -> None:
        if done == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    partitioner = Partitioner(devices()[:1])
    with pytest.raises(PreemptedError, match="step 13 of 20 is saved"):
        pretrain(mixed, partitioner, on_step)
    pretrain(mixed, partitioner)
    run = Path(mixed.run_dir)
    assert inspected(run)["digest"] == inspected(run_of_mixture)["digest"]
    evaluations = [
        [line for line in metrics.read(path) if metrics.is_evaluation(line)]
        for path in (run, run_of_mixture)
    ]
    assert evaluations[0] == evaluations[1]


@pytest.fixture
def changed(
    mixed: RunConfig, run_of_mixture: Path, stores: Path, tmp_path: Path
) -> Callable[[list[MixedStore]], tuple[str | Path, ...]]:
    """Mixture -> the command that resumes a copy of the run with it."""
    shutil.copytree(run_of_mixture, tmp_path / "run")

    def command(entries: list[MixedStore]) -> tuple[str | Path, ...]:
        return ("pretrain", "--config", write_config(with_entries(mixed, *entries), tmp_path))

    return command


def test_a_changed_mixture_is_refused_when_resumed(
    changed: Callable[[list[MixedStore]], tuple[str | Path, ...]],
    mixed: RunConfig,
    stores: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
) -> None:
    large, middle, small = mixed.data.stores
    prepare([f"text:{stores / 'small.txt'}"], tokenizer_dir, tmp_path / "new", 0.4)
    other = replace(small, path=str(tmp_path / "new"), name="small")
    refused(invoke(*changed([large, middle, other])), 78, "stores[2]:", "->")
    missing = replace(small, path=str(tmp_path / "missing"))
    refused(invoke(*changed([large, middle, missing])), 78, str(tmp_path / "missing"))
    swapped = [large, replace(small, fraction=0.3), replace(middle, fraction=0.1)]
    refused(invoke(*changed(swapped)), 78, "stores[1]:", "stores[2]:")
    fractions = [large, replace(middle, fraction=0.2), replace(small, fraction=0.2)]
    refused(invoke(*changed(fractions)), 78, "data.stores:", "fraction 0.3", "fraction 0.2")
    result = invoke(*changed([replace(large, fraction=1.0)]))
    refused(result, 78, "data.stores:", "[fraction 1.0]")
    result = invoke(*changed([]), "--data.store", large.path)
    refused(result, 78, "store: none ->")


def test_a_mixture_may_move(
    changed: Callable[[list[MixedStore]], tuple[str | Path, ...]],
    mixed: RunConfig,
    tmp_path: Path,
) -> None:
    moved = []
    for entry in mixed.data.stores:
        shutil.copytree(entry.path, tmp_path / "moved" / entry.label)
        moved.append(replace(entry, path=str(tmp_path / "moved" / entry.label)))
    result = invoke(*changed(moved))
    assert result.returncode == 0, result.stderr
    assert "resuming at step 20" in result.stderr
