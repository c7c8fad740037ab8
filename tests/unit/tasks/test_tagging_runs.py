"""Runs and models of tagging in other schemes than BIO, from end to end."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import bert_jax as bert_jax_package
from support.commands import invoke
from support.finetuned import MODEL

METRICS = {"f1", "precision", "recall", "accuracy"}
BASE = ["--init", MODEL, "--data.length", "16", "--train.batch_size", "4"]
BASE += ["--model.dtype", "float32", "--optimizer.learning_rate", "5e-3"]


def lines(folder: Path, name: str, text: str) -> Path:
    """Write words and tags: | ends a sentence."""
    file = folder / name
    pairs = (pair.replace("/", "\t") if pair != "|" else "" for pair in text.split())
    file.write_text("\n".join(pairs) + "\n", "utf-8")
    return file


def test_seeds_with_a_validation_set_without_entities(tmp_path: Path) -> None:
    train = lines(tmp_path, "a.conll", "john/B lives/O in/O new/B town/I | mary/B is/O town/I")
    outside = lines(tmp_path, "b.conll", "the/O cat/O | a/O dog/O")
    run = tmp_path / "run"
    arguments = ["--data.train", train, "--data.validation", outside, "--run_dir", run]
    more = ["--seeds", "2", "--train.epochs", "3", "--checkpoint.keep_best", "true"]
    result = invoke("finetune", "tagging", *BASE, *arguments, *more)
    assert result.returncode == 0, result.stderr
    table = json.loads((run / "eval_results.json").read_text("utf-8"))
    assert set(table) == METRICS
    assert table["f1"]["values"] == [0, 0]
    for seed in ("seed-0", "seed-1"):
        log = (run / seed / "metrics.jsonl").read_text("utf-8").splitlines()
        names = [{name.removeprefix("eval_") for name in json.loads(line)} for line in log]
        assert [each & METRICS for each in names if "f1" in each] == [METRICS] * 3
    results = json.loads((run / "seed-0/eval_results.json").read_text("utf-8"))
    assert set(results) > METRICS


def test_untyped_entities_are_trained_predicted_and_exported(tmp_path: Path) -> None:
    text = "good/S cat/O is/O old/B red/M town/E | red/S river/S"
    train, run = lines(tmp_path, "a.conll", f"{text} | {text}"), tmp_path / "run"
    arguments = ["--data.train", train, "--data.validation", train, "--run_dir", run]
    result = invoke("finetune", "tagging", *BASE, *arguments, "--train.epochs", "40")
    assert result.returncode == 0, result.stderr
    results = json.loads((run / "eval_results.json").read_text("utf-8"))
    assert results["f1"] == 1
    assert results["types"].keys() == {"_"}
    assert invoke("convert", run, tmp_path / "hf", "--to", "hf").returncode == 0
    config = json.loads((tmp_path / "hf/config.json").read_text("utf-8"))
    assert config["id2label"] == {"0": "O", "1": "B", "2": "I"}
    (tmp_path / "new.txt").write_text("red river\n", "utf-8")
    for model in (run, tmp_path / "hf"):
        (record,) = bert_jax_package.load(model).predict(tmp_path / "new.txt")
        assert record["tags"] == ["B", "B"]
        assert [(e["label"], e["text"], e["start"]) for e in record["entities"]] == [
            ("_", "red", 0),
            ("_", "river", 4),
        ]


LABELS = {
    "BILOU": ["O", "U-THING", "L-THING"],
    "BIOES": ["O", "S-THING", "E-THING"],
    "BMES": ["O", "S-THING", "M-THING"],
    "suffixes": ["O", "THING_U", "THING_L"],
    "lower case": ["O", "u-THING", "l-THING"],
    "with other classes": ["[PAD]", "B-THING", "I-THING"],
}


@pytest.fixture(scope="module")
def exported(finetuned: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagger that finds milk, in the format of Hugging Face."""
    folder = tmp_path_factory.mktemp("tagger") / "hf"
    result = invoke("convert", finetuned("tagging") / "run", folder, "--to", "hf")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("scheme", LABELS)
def test_a_tagger_of_another_scheme_from_hugging_face(
    scheme: str, exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["id2label"] == {"0": "O", "1": "B-THING", "2": "I-THING"}
    config["id2label"] = {str(number): name for number, name in enumerate(LABELS[scheme])}
    config["label2id"] = {name: number for number, name in enumerate(LABELS[scheme])}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    milk = lines(tmp_path, "milk.conll", "milk/U-THING milk/U-THING | the/O milk/U-THING")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = bert_jax_package.load(folder).predict(milk)
    assert first["tags"] == ["B-THING", "B-THING"]
    assert [(e["start"], e["end"]) for e in first["entities"]] == [(0, 4), (5, 9)]
    assert second["tags"] == ["O", "B-THING"]
    for text in ("milk/U-THING milk/U-THING | the/O milk/U-THING", "milk/B-THING milk/B-THING"):
        labeled, out = lines(tmp_path, "gold.conll", text), tmp_path / "out.jsonl"
        result = invoke("predict", folder, "--input", labeled, "--output", out, "--score")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == dict.fromkeys(METRICS, 1)
    # Trained further with its head, it learns its own classes.
    run = tmp_path / "run"
    arguments = ["--init", folder, "--head.init", "keep", "--run_dir", run, "--data.train", milk]
    arguments += ["--data.validation", milk, "--train.epochs", "1", "--data.length", "16"]
    result = invoke("finetune", "tagging", *arguments)
    assert result.returncode == 0, result.stderr
    results = json.loads((run / "eval_results.json").read_text("utf-8"))
    assert {name: results[name] for name in METRICS} == dict.fromkeys(METRICS, 1)
