"""Fine-tuning from end to end: train, stop, resume, predict, export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bert_jax as bert_jax_package
from bert_jax.training.checksums import digest
from support.commands import invoke, refused
from support.finetuned import FILES, MODEL, options, run
from support.task_files import classification


@pytest.mark.parametrize("task", FILES)
def test_train_stop_resume_predict(
    task: str, finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, cut = finetuned(task), tmp_path / "cut"
    whole = folder / "run"
    files = FILES[task]
    last = json.loads((whole / "eval_results.json").read_text("utf-8"))
    assert last[files.metric] >= files.reaches
    # As if killed after the last but one checkpoint: it goes on to the same bits.
    shutil.copytree(whole, cut)
    steps = sorted(int(path.name) for path in (cut / "checkpoints").iterdir())
    shutil.rmtree(cut / "checkpoints" / str(steps[-1]))
    run(options(task, tmp_path, cut))
    models = [bert_jax_package.load(folder) for folder in (whole, cut)]
    assert len({digest(model.model.weights.params) for model in models}) == 1
    if task == "classification":
        assert sum(map(sum, last["confusion"]["true_by_predicted"])) == 33
    predictions = models[0].predict(folder / f"validation.{files.suffix}")
    lines = (whole / "validation_predictions.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [record["id"] for record in predictions]
    assert len(predictions) == 33
    assert len({record["id"] for record in predictions}) == 33


def test_a_fine_tuned_model_goes_to_hugging_face_and_predicts_the_same(
    finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = finetuned("classification")
    run = folder / "run"
    assert invoke("convert", run, tmp_path / "hf", "--to", "hf").returncode == 0
    config = json.loads((tmp_path / "hf/config.json").read_text("utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "drink", "1": "dry"}
    card = (tmp_path / "hf/README.md").read_text("utf-8")
    assert "epochs: 8" in card
    assert "| accuracy |" in card
    assert str(folder) not in card
    refused(invoke("evaluate", run), 64, "fine-tuned", "--score")
    predictions = []
    ranked = invoke("predict", run, "--input", "x", "--output", "y", "--rank", "--length", "8")
    refused(ranked, 64, "--rank")
    for model in (run, tmp_path / "hf"):
        out = tmp_path / "out.jsonl"
        arguments = (
            "--input",
            folder / "validation.csv",
            "--length",
            "16",
            "--output",
            out,
        )
        result = invoke("predict", model, *arguments)
        assert result.returncode == 0, result.stderr
        predictions.append(out.read_text("utf-8"))
    assert predictions[0] == predictions[1]


def test_seeds_give_mean_and_deviation(tmp_path: Path) -> None:
    run = tmp_path / "runs"
    result = invoke(*options("classification", tmp_path, run, train__epochs=1), "--seeds", "2")
    assert result.returncode == 0, result.stderr
    assert "accuracy: " in result.stderr
    assert "over 2 seeds" in result.stderr
    table = json.loads((run / "eval_results.json").read_text("utf-8"))
    assert len(table["accuracy"]["values"]) == 2
    assert {path.name for path in run.iterdir()} == {"seed-0", "seed-1", "eval_results.json"}


def test_a_mismatch_is_reported_in_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    base = options("classification", tmp_path, run, train__epochs=1)
    refused(invoke("finetune", "clasification", *base[2:]), 64, "did you mean 'classification'")
    refused(invoke("finetune"), 64, "tagging")
    refused(invoke(*base, "--head.trainable", "first-2"), 78, "head.trainable")
    refused(invoke(*base, "--data.train", tmp_path / "none.csv"), 78, "none.csv")
    refused(invoke(*base, "--data.columns.label", "mood"), 78, "mood", "text, label")
    refused(invoke(*base, "--seeds", "x"), 64, "--seeds")
    refused(invoke(*base, "--init", tmp_path / "no-model"), 78, "no-model")
    refused(invoke("predict", MODEL, "--input", "x.csv", "--output", "y"), 78, "task head")
    assert not run.exists()
    assert invoke(*base).returncode == 0
    refused(invoke(*base, "--train.epochs", "0.5"), 78, "raise train.epochs")
    other = options("tagging", tmp_path, run)
    refused(
        invoke(*other), 78, "is a run of classification, not of tagging; choose another run_dir"
    )
    refused(invoke(*base, "--head.features", "embeddings"), 78, "head.features")
    (tmp_path / "train.csv").write_text("text,label\nthe man,dry\na store,drink\n", "utf-8")
    refused(invoke(*base[:6], *base[8:], "--data.train", tmp_path / "train.csv"), 78, "train")


def test_a_finished_run_is_measured_on_other_data_and_remembers_its_columns(tmp_path: Path) -> None:
    train = classification.write(tmp_path / "train.csv", 24, 0).read_text("utf-8")
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
    predictions = run([*words, "--data.validation", str(tmp_path / "other.csv")])
    assert 0 <= predictions["accuracy"] <= 1
    results = json.loads((folder / "eval_results.json").read_text("utf-8"))
    assert sum(map(sum, results["confusion"]["true_by_predicted"])) == 9
    model = bert_jax_package.load(folder)
    assert model.model.finetune is not None
    assert model.model.finetune.data.columns.text == "review"
    distinct = {
        tuple(record["probabilities"].values()) for record in model.predict(tmp_path / "other.csv")
    }
    assert len(distinct) > 1, "all rows are alike: the wrong column was read"
