"""Fine-tuning from end to end: train, stop, resume, predict, export."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import bert_jax, inspected, refused

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


FILES: dict[str, tuple[Callable[[Path, int, int], Path], str, str]] = {
    "classification": (texts, "csv", "accuracy"),
    "tagging": (tags, "conll", "f1"),
}


def options(task: str, folder: Path, run: Path, **more: object) -> list[str]:
    make, ending, _ = FILES[task]
    given = {
        "init": MODEL,
        "run_dir": run,
        "data.train": make(folder / f"train.{ending}", 64, 0),
        "data.validation": make(folder / f"validation.{ending}", 33, 1),
        "data.length": 16,
        "model.dtype": "float32",
        "optimizer.learning_rate": 2e-3,
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


@pytest.mark.parametrize("task", FILES)
def test_train_stop_resume_predict(task: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    straight = bert_jax(*options(task, tmp_path, whole))
    assert straight.returncode == 0, straight.stderr
    results = json.loads((whole / "eval_results.json").read_text("utf-8"))
    assert results[FILES[task][2]] > 0.9
    # Cut off after five of eight passes, and gone on with: the same bits.
    first = bert_jax(*options(task, tmp_path, cut, train__epochs=5, train__warmup=0.0))
    assert first.returncode == 0, first.stderr
    model = ("predict", whole, "--input", tmp_path / f"validation.{FILES[task][1]}")
    found = bert_jax(*model, "--output", tmp_path / "found.jsonl")
    assert found.returncode == 0, found.stderr
    lines = (tmp_path / "found.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 33
    assert json.loads(lines[0])["id"] == "0"
    again = bert_jax(*options(task, tmp_path, whole))
    assert "resuming at step 48" in again.stderr
    assert again.returncode == 0


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert bert_jax(*options("classification", tmp_path, whole)).returncode == 0
    assert bert_jax(*options("classification", tmp_path, cut)).returncode == 0
    # As if killed after the last but one checkpoint.
    steps = sorted(int(path.name) for path in (cut / "checkpoints").iterdir())
    shutil.rmtree(cut / "checkpoints" / str(steps[-1]))
    resumed = bert_jax(*options("classification", tmp_path, cut))
    assert f"resuming at step {steps[0]}" in resumed.stderr, resumed.stderr
    assert inspected(cut)["digest"] == inspected(whole)["digest"]


def test_a_fine_tuned_model_goes_to_hugging_face_and_predicts_the_same(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert bert_jax(*options("classification", tmp_path, run, train__epochs=2)).returncode == 0
    assert bert_jax("convert", run, tmp_path / "hf", "--to", "hf").returncode == 0
    config = json.loads((tmp_path / "hf/config.json").read_text("utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "drink", "1": "dry"}
    found = []
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
    refused(bert_jax("predict", MODEL, "--input", "x.csv", "--output", "y"), 78, "task head")
    assert not run.exists()
    assert bert_jax(*base).returncode == 0
    other = options("tagging", tmp_path, run)
    refused(bert_jax(*other), 78, "no run of tagging")
    refused(bert_jax(*base, "--head.features", "embeddings"), 78, "head.features")
    (tmp_path / "train.csv").write_text("text,label\nthe man,dry\na store,drink\n", "utf-8")
    refused(bert_jax(*base[:6], *base[8:], "--data.train", tmp_path / "train.csv"), 78, "train")
