"""Multi-label classification: loss, thresholds and metrics; see also the tests of all tasks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

import bert_jax as bert_jax_package
from bert_jax.runtime.errors import BadInputError
from pipelines.models.open import open_model
from pipelines.models.predict import task_of
from pipelines.tasks import thresholds
from pipelines.tasks.multi_label import scores
from pipelines.tasks.multi_label.labels import Names
from pipelines.tasks.multi_label.task import LabeledExample, MultiLabel
from pipelines.tasks.registry import task_of_architecture
from pipelines.tasks.task import Features
from support.commands import invoke
from support.finetuned import FILES, options, run
from support.model_server import served
from support.task_files.task_files import read_json_lines

NAMES = ["a", "b", "c", "d"]


def drawn(seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, none of the last kind, and probabilities with ties."""
    rng = np.random.default_rng(seed)
    true = rng.random((rows, 4)) < [0.5, 0.1, 0.9, 0.0]
    probabilities = np.clip(true * 0.2 + rng.normal(0.4, 0.2, true.shape), 0.0, 1.0).round(2)
    return true, probabilities


def test_the_loss_is_the_mean_over_labels_and_adds_up_over_batches() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 5, (6, 4)), rng.random((6, 4)) < 0.5
    p = 1 / (1 + np.exp(-x))
    expected = -np.where(y, np.log(p), np.log1p(-p)).mean(axis=1)
    weights = np.array([1, 1, 1, 1, 1, 0])

    def sums(rows: slice) -> Any:
        arrays = {"labels": y[rows].astype(np.int8), "weights": weights[rows].astype(np.float32)}
        batch = {name: jnp.array(array) for name, array in arrays.items()}
        return MultiLabel().objective(jnp.array(x[rows, None], jnp.float32), batch)

    whole, first, rest = sums(slice(0, 6)), sums(slice(0, 2)), sums(slice(2, 6))
    assert whole.count == 5
    np.testing.assert_allclose(whole.loss / whole.count, expected[:5].mean(), rtol=1e-5)
    np.testing.assert_allclose(first.loss + rest.loss, whole.loss, rtol=1e-6)
    right = ((x > 0) == y).all(axis=1) & (weights > 0)
    assert whole.correct == right.sum()


@pytest.mark.parametrize("seed", range(20))
def test_a_threshold_has_the_largest_f1_of_all(seed: int) -> None:
    true, probabilities = drawn(seed, 20)
    for label in range(4):
        y, p = true[:, label], probabilities[:, label]
        found = scores.best_threshold(p, y)
        cuts = [0.5, *np.unique(p), *(np.unique(p) + 1e-9)]
        f1 = [f1_score(y, p >= cut, zero_division=0) for cut in cuts]
        assert f1_score(y, p >= found, zero_division=0) == max(f1)
        if not y.any() or f1[0] == max(f1):
            assert found == 0.5
        assert found not in set(p) - {0.5}, "half-way between two probabilities"


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        ([0.9, 0.1], [0, 0], 0.5),
        ([0.9, 0.1], [1, 0], 0.5),
        ([0.9, 0.8, 0.1], [1, 0, 0], 0.85),
        ([0.2, 0.1], [1, 0], 0.15),
        ([0.2, 0.2, 0.1], [1, 0, 0], 0.15),
        ([0.9, 0.9], [1, 1], 0.5),
        ([0.0, 0.0], [1, 0], 0.0),
        ([1.0, 1.0 - 2**-53], [1, 0], 1.0),  # no number is between them
    ],
)
def test_thresholds_by_hand(p: list[float], y: list[int], expected: float) -> None:
    assert scores.best_threshold(np.array(p), np.array(y, bool)) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:No positive class")  # of scikit-learn; it returns 0
@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    true, p = drawn(seed)
    predicted = p >= [0.3, 0.5, 0.6, 0.4]
    records = [
        {
            "labels": [name for name, chosen in zip(NAMES, row, strict=True) if chosen],
            "probabilities": dict(zip(NAMES, map(float, of), strict=True)),
        }
        for row, of in zip(predicted, p, strict=True)
    ]
    names = Names(tuple(NAMES))
    examples = [
        LabeledExample(str(n), "x", labels=tuple(np.array(NAMES)[row]), names=names)
        for n, row in enumerate(true)
    ]
    expected = {
        "macro_ap": average_precision_score(true, p, average="macro"),
        "micro_ap": average_precision_score(true, p, average="micro"),
        "macro_f1": f1_score(true, p >= 0.5, average="macro", zero_division=0),
        "micro_f1": f1_score(true, p >= 0.5, average="micro", zero_division=0),
        "subset_accuracy": np.mean((true == (p >= 0.5)).all(axis=1)),
        "tuned_macro_f1": f1_score(true, predicted, average="macro", zero_division=0),
        "tuned_micro_f1": f1_score(true, predicted, average="micro", zero_division=0),
    }
    task = MultiLabel()
    assert task.score(examples, records, NAMES) == pytest.approx(expected, abs=1e-12)
    per_label = f1_score(true, predicted, average=None, zero_division=0)
    types = task.details(examples, records, NAMES)["types"]
    assert [types[name]["f1"] for name in NAMES] == pytest.approx(per_label.tolist())
    assert [types[name]["examples"] for name in NAMES] == true.sum(axis=0).tolist()


@pytest.mark.parametrize("true", [np.zeros((3, 2), bool), np.ones((3, 1), bool)])
def test_the_metrics_have_the_same_names_whatever_the_labels(true: np.ndarray) -> None:
    p = np.full(true.shape, 0.7)
    found = scores.metrics(true, p, p > 2)
    assert found.keys() == scores.metrics(*drawn(0), drawn(0)[0]).keys()
    assert all(np.isfinite(value) for value in found.values())
    assert found["tuned_micro_f1"] == 0
    assert found["micro_f1"] == found["macro_ap"] == true.mean()
    assert MultiLabel.best_metric in found
    names = [str(n) for n in range(true.shape[1])]
    by_label = scores.by_label(names, true, p, p > 0.5)
    assert [by_label[name]["recall"] for name in names] == true.any(axis=0).tolist()


def test_small_probabilities_keep_their_order() -> None:
    logits = np.array([-800.0, -50.0, -40.0, 0.0, 40.0], np.float32)
    p = scores.sigmoid(logits)
    assert p[3] == 0.5
    assert (np.diff(p) > 0).all()
    np.testing.assert_allclose(p[1:3], np.exp([-50.0, -40.0]))


def test_labels_are_predicted_from_the_thresholds_of_the_model() -> None:
    task = MultiLabel()
    examples = [LabeledExample("7", "x")]
    features = Features({"labels": np.zeros((1, 2), np.int8)}, np.arange(1), np.ones(1, np.int64))
    logits = np.array([[[0.1, -0.1]]], np.float32)
    (record,) = task.predict(examples, features, logits, ["a", "b"])
    assert record["labels"] == ["a"]
    assert record["probabilities"] == pytest.approx({"a": 0.524979, "b": 0.475021}, abs=1e-6)
    task.thresholds = (0.6, 0.4)
    assert task.predict(examples, features, logits, ["a", "b"])[0]["labels"] == ["b"]


def test_the_problem_type_of_hugging_face_decides() -> None:
    kind = "BertForSequenceClassification"
    two, one = ["a", "b"], ["a"]
    assert task_of_architecture(kind, two, "multi_label_classification") == "multi-label"
    assert task_of_architecture(kind, one, "multi_label_classification") == "multi-label"
    for problem_type in ("", "single_label_classification"):
        assert task_of_architecture(kind, two, problem_type) == "classification"
    assert task_of_architecture(kind, one, "regression") == "regression"
    # transformers ignores it in other networks.
    of_tokens = task_of_architecture("BertForTokenClassification", two, MultiLabel.problem_type)
    assert of_tokens == "tagging"


def predicted(model: Path, source: Path, *words: str) -> tuple[list[dict[str, Any]], Any, str]:
    out = source.with_name("out.jsonl")
    result = invoke("predict", model, "--input", source, "--output", out, "--length", "16", *words)
    assert result.returncode == 0, result.stderr
    return read_json_lines(out), json.loads(result.stdout or "{}"), result.stderr


def test_lists_and_requests_use_the_thresholds_of_the_model(
    finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finetuned("multi-label"), tmp_path / "made")) / "run"
    labels = open_model(run).weights.labels
    texts = [row["text"] for row in read_json_lines(run.parent / "validation.jsonl")]
    for threshold, expected in ((1.0, []), (0.0, list(labels))):
        values = dict.fromkeys(labels, threshold)
        (run / thresholds.FILE).write_text(json.dumps({"48": values}), "utf-8")
        records = bert_jax_package.load(run).predict(texts)
        assert {tuple(record["labels"]) for record in records} == {tuple(expected)}
        with served(run) as client:
            assert client.result("multi-label", text=texts[0])["labels"] == expected


def test_thresholds_follow_the_model(finetuned: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finetuned("multi-label"), tmp_path / "made"))
    made, source = folder / "run", folder / "validation.jsonl"
    results = json.loads((made / "eval_results.json").read_text("utf-8"))
    assert results["thresholds_tuned_on_these_examples"]
    saved = json.loads((made / thresholds.FILE).read_text("utf-8"))
    steps = sorted(map(int, saved))
    assert steps == list(range(6, 49, 6)), "one for each evaluation"
    model = open_model(made)
    assert dict(zip(model.weights.labels, model.weights.thresholds, strict=True)) == saved["48"]
    assert saved["48"] == {name: of["threshold"] for name, of in results["types"].items()}
    # They are the best for these probabilities.
    records = read_json_lines(made / "validation_predictions.jsonl")
    true = [row["labels"] for row in read_json_lines(source)]
    for name, threshold in saved["48"].items():
        p = np.array([record["probabilities"][name] for record in records])
        assert threshold == scores.best_threshold(p, np.array([name in of for of in true]))
        assert [name in record["labels"] for record in records] == (p >= threshold).tolist()
    # predict, bert_jax.load and both formats of convert use them.
    answers, metrics, _ = predicted(made, source, "--score")
    assert answers == records
    assert metrics == pytest.approx({name: results[name] for name in metrics})
    assert bert_jax_package.load(made).predict(source) == records
    for form in ("hf", "bert-jax"):
        converted = invoke("convert", made, tmp_path / form, "--to", form)
        assert converted.returncode == 0, converted.stderr
        assert predicted(tmp_path / form, source)[0] == records
        assert open_model(tmp_path / form).weights.thresholds == model.weights.thresholds
        assert task_of(open_model(tmp_path / form))[0] == "multi-label"
    config = json.loads((tmp_path / "hf/config.json").read_text("utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    card = (tmp_path / "hf/README.md").read_text("utf-8")
    assert f"{model.weights.thresholds[0]:.4f}" in card
    # A step without an evaluation has none.
    answers, _, printed = predicted(made / "checkpoints/42", source)
    assert "0.5" not in printed
    shutil.rmtree(made / "checkpoints/42")
    (made / thresholds.FILE).write_text(json.dumps({"42": saved["42"]}), "utf-8")
    answers, _, printed = predicted(made, source)
    assert "0.5" in printed
    chosen = [[n for n, p in record["probabilities"].items() if p >= 0.5] for record in records]
    assert [record["labels"] for record in answers] == chosen


def test_other_validation_data_do_not_change_the_thresholds(
    finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    made = finetuned("multi-label")
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    before = (folder / thresholds.FILE).read_bytes()
    words = options("multi-label", tmp_path, folder)
    other = FILES["multi-label"].write(tmp_path / "validation.jsonl", 20, 7)
    measured = run([*words, "--data.validation", str(other)])
    assert (folder / thresholds.FILE).read_bytes() == before
    results = json.loads((folder / "eval_results.json").read_text("utf-8"))
    assert not results["thresholds_tuned_on_these_examples"]
    assert predicted(folder, other, "--score")[1] == pytest.approx(measured)
    # Without any, they are tuned and saved.
    (folder / thresholds.FILE).unlink()
    run([*words, "--data.validation", str(other)])
    assert list(json.loads((folder / thresholds.FILE).read_text("utf-8"))) == ["48"]
    assert open_model(folder).weights.thresholds


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"3": []}',
        '{"3": {"a": 0.5}}',
        '{"3": {"b": 0.5, "a": 0.5}}',
        '{"3": {"a": 0.5, "b": 1.5}}',
        '{"3": {"a": 0.5, "b": NaN}}',
        '{"3": {"a": 0.5, "b": "0.5"}}',
    ],
)
def test_a_damaged_file_of_thresholds_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / thresholds.FILE).write_text(content, "utf-8")
    with pytest.raises(BadInputError, match=r"thresholds\.json"):
        thresholds.read(tmp_path, 3, ["a", "b"])


def test_thresholds_are_kept_by_step(tmp_path: Path) -> None:
    assert thresholds.read(tmp_path, 3, ["a", "é"]) == ()
    thresholds.write(tmp_path, 3, ["a", "é"], (0.25, 0.5))
    thresholds.write(tmp_path, 6, ["a", "é"], (0.125, 1.0))
    assert thresholds.read(tmp_path, 3, ["a", "é"]) == (0.25, 0.5)
    assert thresholds.read(tmp_path, 6, ["a", "é"]) == (0.125, 1.0)
    assert thresholds.read(tmp_path, 9, ["a", "é"]) == ()


def test_vectors_are_scored_in_the_order_of_the_model(
    finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    made = finetuned("multi-label")
    classes = ["drink", "food", "place"]
    rows = read_json_lines(made / "validation.jsonl")
    vectors = [row | {"labels": [int(name in row["labels"]) for name in classes]} for row in rows]
    source = tmp_path / "vectors.jsonl"
    source.write_text("\n".join(map(json.dumps, vectors)), "utf-8")
    _, metrics, printed = predicted(made / "run", source, "--score")
    (tmp_path / "names.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert metrics == predicted(made / "run", tmp_path / "names.jsonl", "--score")[1]
    assert "drink, food, place" in printed
    more = {"init": made / "run", "head.init": "keep", "train.epochs": 1}
    words = options("multi-label", tmp_path, tmp_path / "kept", **more)
    run([*words, "--data.train", str(source), "--data.validation", str(source)])
    assert list(open_model(tmp_path / "kept").weights.labels) == classes
    results = json.loads((tmp_path / "kept/eval_results.json").read_text("utf-8"))
    assert results["macro_ap"] > 0.8
