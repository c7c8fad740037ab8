"""A fine-tuning run that starts from a fine-tuned model keeps its head if it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config.task_head import HeadConfig
from bert_jax.nn.tensor_names import ModelWeights
from bert_jax.runtime.errors import BadInputError
from pipelines.models.formats import hugging_face
from pipelines.models.initial_head import initial_head
from pipelines.models.open import LoadedModel, open_model
from pipelines.tasks.config import FinetuneConfig, TaskDataConfig
from pipelines.tasks.registry import open_task
from support.finetuned import FILES, MODEL, options, run
from support.model_server import with_head


def started(model: LoadedModel, task: str, classes: list[str], **head: Any) -> Any:
    """Return the classes and the head of a run, or the error."""
    config = FinetuneConfig(
        run_dir="-", task=task, data=TaskDataConfig("-"), head=HeadConfig(**head)
    )
    return initial_head(model, config, open_task(task), classes)


def assert_equal(actual: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("task", FILES)
def test_the_head_of_the_same_task_and_classes_is_kept(task: str) -> None:
    model = with_head(task)
    classes, head = started(model, task, list(FILES[task].classes))
    assert classes == list(FILES[task].classes)
    if task == "regression":  # one quantity may be another one
        assert head is None
        head = started(model, task, classes, init="keep")[1]
    assert_equal(head, model.weights.params["head"])
    assert started(model, task, classes, init="new") == (classes, None)
    for other in FILES:
        if other != task:
            assert started(model, other, classes) == (classes, None)
            with pytest.raises(BadInputError, match=task):
                started(model, other, classes, init="keep")


def test_outputs_are_sorted_by_their_names() -> None:
    model = with_head("multi-label")  # drink, food, place
    _, head = started(model, "multi-label", ["place", "drink", "food"])
    for name, array in model.weights.params["head"].items():
        assert_equal(head[name], array[..., [2, 0, 1]])


@pytest.mark.parametrize(
    "classes",
    [["drink", "food"], ["drink", "food", "Place"], ["drink", "food", "place", "x"], ["drink"]],
)
def test_other_classes_get_a_new_head(classes: list[str]) -> None:
    model = with_head("multi-label")
    assert started(model, "multi-label", classes) == (classes, None)
    # "keep" uses those of the model; `Task.features` refuses other labels.
    kept, head = started(model, "multi-label", classes, init="keep")
    assert kept == ["drink", "food", "place"]
    assert_equal(head, model.weights.params["head"])


def test_names_that_two_classes_have_match_nothing() -> None:
    model = with_head("classification")
    weights = replace(model.weights, labels=("dry", "dry"))
    model = replace(model, weights=weights)
    assert started(model, "classification", ["dry", "dry"])[1] is None


@pytest.mark.parametrize(
    "head", [{"features": "concat-last-4"}, {"features": "embeddings"}, {"kind": "bilstm"}]
)
def test_another_kind_of_head_is_new(head: dict[str, Any]) -> None:
    model = with_head("tagging")
    classes = list(FILES["tagging"].classes)
    assert started(model, "tagging", classes, **head) == (classes, None)
    with pytest.raises(BadInputError, match=r"head\."):
        started(model, "tagging", classes, init="keep", **head)


def test_a_model_without_a_head() -> None:
    model = open_model(MODEL)
    assert started(model, "classification", ["a", "b"]) == (["a", "b"], None)
    with pytest.raises(BadInputError, match=r"head\.init"):
        started(model, "classification", ["a", "b"], init="keep")


@pytest.mark.parametrize("task", ["classification", "multi-label", "tagging"])
def test_the_run_starts_with_every_bit_of_the_head(
    task: str, finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    made = finetuned(task) / "run"
    words = {"init": made, "optimizer__learning_rate": 0.0, "train__epochs": 0.1}
    run(options(task, tmp_path, tmp_path / "kept", **words))
    before, after = (open_model(folder).weights for folder in (made, tmp_path / "kept"))
    assert after.labels == before.labels
    assert_equal(after.params, before.params)
    run(options(task, tmp_path, tmp_path / "new", **words, head__init="new"))
    new = open_model(tmp_path / "new").weights
    assert_equal(new.params["bert"], before.params["bert"])
    assert (new.params["head"]["kernel"] != before.params["head"]["kernel"]).any()


def test_a_head_from_hugging_face_is_kept(tmp_path: Path) -> None:
    model = with_head("classification")
    folder = tmp_path / "model"
    folder.mkdir()
    labels = ("dry", "drink")  # in the data: drink, dry
    params = model.weights.params
    weights = ModelWeights(params, model.network, "BertForSequenceClassification", labels)
    hugging_face.write(folder, weights, 0)
    (folder / "vocab.txt").write_bytes((MODEL / "vocab.txt").read_bytes())
    words = {"init": folder, "optimizer__learning_rate": 0.0, "train__epochs": 0.1}
    run(options("classification", tmp_path, tmp_path / "run", **words))
    after = open_model(tmp_path / "run").weights
    assert after.labels == ("drink", "dry")
    assert_equal(after.params["head"]["kernel"], np.array(params["head"]["kernel"])[:, ::-1])
