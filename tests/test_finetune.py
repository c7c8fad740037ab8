"""Fine-tuning from end to end: train, stop, resume, predict, export."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bert_jax as bert_jax_package
from bert_jax.fingerprints import digest
from bert_jax.parallel import Layout, devices
from conftest import bert_jax, refused
from pipelines.finetune import finetune
from pipelines.settings import command_parser, read_config
from pipelines.tasks.config import FinetuneConfig

MODEL = Path(__file__).parent / "golden/hugging_face"
WORDS = ["the", "man", "and", "milk", "in", "a", "store", "on"]


def texts(path: Path, count: int, seed: int) -> Path:
    """Texts that speak of milk or do not; a vocabulary of 70 is enough for them."""
    rng = random.Random(seed)  # noqa: S311
    lines = ["text,label"]
    for number in range(count):
        words = rng.choices([word for word in WORDS if word != "milk"], k=6)
        if number % 2:
            words[rng.randrange(6)] = "milk"
        lines.append(f"{' '.join(words)},{'drink' if number % 2 else 'dry'}")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def tags(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    sentences = []
    for _ in range(count):
        words = rng.choices(WORDS, k=5)
        sentences.append("\n".join(f"{w} {'B-THING' if w == 'milk' else 'O'}" for w in words))
    path.write_text("\n\n".join(sentences) + "\n", "utf-8")
    return path


def numbers(path: Path, count: int, seed: int) -> Path:
    """How often milk is spoken of."""
    rng = random.Random(seed)  # noqa: S311
    rows = [rng.choices([*WORDS[:2], "milk"], k=6) for _ in range(count)]
    lines = [f"{' '.join(words)},{words.count('milk')}" for words in rows]
    path.write_text("\n".join(["text,label", *lines]) + "\n", "utf-8")
    return path


def choices(path: Path, count: int, seed: int) -> Path:
    """One of three goes on with milk."""
    rng = random.Random(seed)  # noqa: S311
    records = []
    for _ in range(count):
        right, others = rng.randrange(3), [word for word in WORDS if word != "milk"]
        ends = [" ".join(rng.choices(others, k=3)) for _ in range(3)]
        ends[right] = f"{ends[right]} milk"
        records.append({"text": "the man", "choices": ends, "label": right})
    return json_lines(path, records)


def summaries(path: Path, count: int, seed: int) -> Path:
    """The sentence with milk is the summary."""
    rng = random.Random(seed)  # noqa: S311
    records = []
    for _ in range(count):
        others = [word for word in WORDS if word != "milk"]
        sentences = [" ".join(rng.choices(others, k=4)) for _ in range(3)]
        sentences[rng.randrange(3)] = "the man and milk"
        records.append({"document": sentences, "summary": "the man and milk"})
    return json_lines(path, records)


def questions(path: Path, count: int, seed: int) -> Path:
    """The answer is milk, wherever it is."""
    rng = random.Random(seed)  # noqa: S311
    paragraphs = []
    for number in range(count):
        words = rng.choices([word for word in WORDS if word != "milk"], k=6)
        words[rng.randrange(6)] = "milk"
        context = " ".join(words)
        answer = {"text": "milk", "answer_start": context.index("milk")}
        asked = {"id": str(number), "question": "the man in?", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [asked]})
    data = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(data), "utf-8")
    return path


def json_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


# Task -> maker of its files, their ending, a metric and what it reaches.
FILES: dict[str, tuple[Callable[[Path, int, int], Path], str, str, float]] = {
    "classification": (texts, "csv", "accuracy", 0.9),
    "tagging": (tags, "conll", "f1", 0.9),
    "regression": (numbers, "csv", "pearson", 0.8),
    "multiple-choice": (choices, "jsonl", "accuracy", 0.8),
    "summarization": (summaries, "jsonl", "rouge1", 0.4),
    "qa": (questions, "json", "exact", 80.0),
}


def options(task: str, folder: Path, run: Path, **more: object) -> list[str]:
    make, ending, *_ = FILES[task]
    given = {
        "init": MODEL,
        "run_dir": run,
        "data.train": make(folder / f"train.{ending}", 64, 0),
        "data.validation": make(folder / f"validation.{ending}", 33, 1),
        "data.length": 16,
        "model.dtype": "float32",
        "optimizer.learning_rate": 5e-3,
        "model.hidden_dropout": 0.0,
        "model.attention_dropout": 0.0,
        "train.epochs": 8,
        "train.batch_size": 12,
        "checkpoint.every": 7,
        "checkpoint.keep": 2,
    } | {key.replace("__", "."): value for key, value in more.items()}
    return [
        "finetune",
        task,
        *(str(w) for key, value in given.items() for w in (f"--{key}", value)),
    ]


def run(words: list[str]) -> dict[str, Any]:
    """`bert-jax finetune` in this process."""
    name, *rest = words[1:]
    parser = command_parser(f"finetune {name}", "")
    config = replace(read_config(parser, rest, FinetuneConfig)[0], task=name)
    return finetune(config, Layout(devices()[:1]))


@pytest.mark.parametrize("task", FILES)
def test_train_stop_resume_predict(task: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _, ending, metric, least = FILES[task]
    assert run(options(task, tmp_path, whole))[metric] >= least
    # As if killed after the last but one checkpoint: it goes on to the same bits.
    shutil.copytree(whole, cut)
    steps = sorted(int(path.name) for path in (cut / "checkpoints").iterdir())
    shutil.rmtree(cut / "checkpoints" / str(steps[-1]))
    run(options(task, tmp_path, cut))
    models = [bert_jax_package.load(folder) for folder in (whole, cut)]
    assert len({digest(model.model.weights.params) for model in models}) == 1
    last = json.loads((whole / "eval_results.json").read_text("utf-8"))
    if task == "classification":
        assert sum(map(sum, last["confusion"]["true_by_predicted"])) == 33
    found = models[0].predict(tmp_path / f"validation.{ending}")
    lines = (whole / "validation_predictions.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [record["id"] for record in found]
    assert len(found) == 33
    assert len({record["id"] for record in found}) == 33


def test_a_fine_tuned_model_goes_to_hugging_face_and_predicts_the_same(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert bert_jax(*options("classification", tmp_path, run, train__epochs=2)).returncode == 0
    assert bert_jax("convert", run, tmp_path / "hf", "--to", "hf").returncode == 0
    config = json.loads((tmp_path / "hf/config.json").read_text("utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "drink", "1": "dry"}
    card = (tmp_path / "hf/README.md").read_text("utf-8")
    assert "epochs: 2" in card
    assert "| accuracy |" in card
    assert str(tmp_path) not in card
    refused(bert_jax("evaluate", run), 64, "fine-tuned", "--score")
    found = []
    ranked = bert_jax("predict", run, "--input", "x", "--output", "y", "--rank", "--length", "8")
    refused(ranked, 78, "x")
    for model in (run, tmp_path / "hf"):
        out = tmp_path / "out.jsonl"
        given = ("--input", tmp_path / "validation.csv", "--length", "16", "--output", out)
        result = bert_jax("predict", model, *given)
        assert result.returncode == 0, result.stderr
        found.append(out.read_text("utf-8"))
    assert found[0] == found[1]


def test_seeds_give_mean_and_deviation(tmp_path: Path) -> None:
    run = tmp_path / "runs"
    result = bert_jax(*options("classification", tmp_path, run, train__epochs=1), "--seeds", "2")
    assert result.returncode == 0, result.stderr
    assert "accuracy: " in result.stderr
    assert "over 2 seeds" in result.stderr
    table = json.loads((run / "eval_results.json").read_text("utf-8"))
    assert len(table["accuracy"]["values"]) == 2
    assert {path.name for path in run.iterdir()} == {"seed-0", "seed-1", "eval_results.json"}


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    base = options("classification", tmp_path, run, train__epochs=1)
    refused(bert_jax("finetune", "clasification", *base[2:]), 64, "did you mean 'classification'")
    refused(bert_jax("finetune"), 64, "tagging")
    refused(bert_jax(*base, "--head.trainable", "first-2"), 78, "head.trainable")
    refused(bert_jax(*base, "--data.train", tmp_path / "none.csv"), 78, "none.csv")
    refused(bert_jax(*base, "--data.columns.label", "mood"), 78, "mood", "text, label")
    refused(bert_jax(*base, "--seeds", "x"), 64, "--seeds")
    refused(bert_jax(*base, "--init", tmp_path / "no-model"), 78, "no-model")
    refused(bert_jax("predict", MODEL, "--input", "x.csv", "--output", "y"), 78, "task head")
    assert not run.exists()
    assert bert_jax(*base).returncode == 0
    refused(bert_jax(*base, "--train.epochs", "0.5"), 78, "raise train.epochs")
    other = options("tagging", tmp_path, run)
    refused(bert_jax(*other), 78, "no run of tagging")
    refused(bert_jax(*base, "--head.features", "embeddings"), 78, "head.features")
    (tmp_path / "train.csv").write_text("text,label\nthe man,dry\na store,drink\n", "utf-8")
    refused(bert_jax(*base[:6], *base[8:], "--data.train", tmp_path / "train.csv"), 78, "train")


def test_a_finished_run_is_measured_on_other_data_and_remembers_its_columns(tmp_path: Path) -> None:
    train = texts(tmp_path / "train.csv", 24, 0).read_text("utf-8")
    # The column that it learns from has a name of its own; another has the usual one.
    rows = [line.split(",") for line in train.splitlines()[1:]]
    lines = ["text,review,label", *(f"the,{text},{label}" for text, label in rows)]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (tmp_path / "other.csv").write_text("\n".join(lines[:10]) + "\n", "utf-8")
    folder = tmp_path / "run"
    words = ["finetune", "classification", "--init", str(MODEL), "--run_dir", str(folder)]
    words += ["--data.train", str(tmp_path / "train.csv"), "--data.columns.text", "review"]
    words += ["--train.epochs", "1", "--data.length", "16"]
    assert run(words) == {}
    found = run([*words, "--data.validation", str(tmp_path / "other.csv")])
    assert 0 <= found["accuracy"] <= 1
    results = json.loads((folder / "eval_results.json").read_text("utf-8"))
    assert sum(map(sum, results["confusion"]["true_by_predicted"])) == 9
    model = bert_jax_package.load(folder)
    assert model.model.finetune is not None
    assert model.model.finetune.data.columns.text == "review"
    shown = {
        tuple(record["probabilities"].values()) for record in model.predict(tmp_path / "other.csv")
    }
    assert len(shown) > 1, "all rows are alike: the wrong column was read"
