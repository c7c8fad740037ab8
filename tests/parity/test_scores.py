"""Our scores are equal to those of other libraries: torchmetrics, and conlleval of CoNLL-2000."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchmetrics", reason="extra parity is not installed")
conlleval = pytest.importorskip("conlleval", reason="extra parity is not installed")

import torch
from torchmetrics.functional import classification, pearson_corrcoef, spearman_corrcoef
from torchmetrics.functional.retrieval import retrieval_reciprocal_rank
from torchmetrics.functional.text import rouge_score, squad

from pipelines.tasks.classification import Classification
from pipelines.tasks.qa.score import score
from pipelines.tasks.ranking import Candidate, PassageRanking
from pipelines.tasks.regression import Regression
from pipelines.tasks.summarization.rouge import rouge
from pipelines.tasks.tables.examples import Example
from pipelines.tasks.tagging import bio_tags, entity_f1
from support.commands import ROOT

DATA = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data")) / "squad"
TYPES = ("PER", "LOC", "ORG")
WORDS = [
    "The",
    "the",
    "a",
    "an",
    "cat",
    "Dog",
    "runs,",
    "U.S.",
    "five",
    "5",
    "well-known",
    "it's",
    "(sat)",
    "on",
]


@pytest.mark.parametrize("count", [2, 5])
def test_classification(count: int) -> None:
    rng = np.random.default_rng(count)
    classes = [f"class {number}" for number in range(count)]
    truth = rng.integers(count, size=300)
    predictions = np.where(rng.random(300) < 0.6, truth, rng.integers(count, size=300))
    examples = [Example(str(i), "a text", label=classes[n]) for i, n in enumerate(truth)]
    ours = Classification().score(examples, [{"label": classes[n]} for n in predictions], classes)
    theirs = (torch.tensor(predictions), torch.tensor(truth))
    expected = {
        "accuracy": (theirs[0] == theirs[1]).float().mean(),
        "mcc": classification.multiclass_matthews_corrcoef(*theirs, count),
    }
    if count == 2:
        expected["f1"] = classification.binary_f1_score(*theirs)
    else:
        expected["macro_f1"] = classification.multiclass_f1_score(*theirs, count, average="macro")
    assert ours == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-6)


def test_regression() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 11, 200) / 2  # with ties
    predictions = truth + rng.normal(0, 1.5, 200)
    examples = [Example(str(i), "a text", label=str(value)) for i, value in enumerate(truth)]
    records = [{"value": float(value)} for value in predictions]
    ours = Regression().score(examples, records, ["value"])
    theirs = (torch.tensor(predictions), torch.tensor(truth))
    assert ours["pearson"] == pytest.approx(float(pearson_corrcoef(*theirs)), abs=1e-6)
    assert ours["spearman"] == pytest.approx(float(spearman_corrcoef(*theirs)), abs=1e-5)


def test_ranks() -> None:
    rng = np.random.default_rng(2)
    relevant, probabilities = rng.random((40, 10)) < 0.2, rng.random((40, 10))
    candidates, records = [], []
    for query, candidate in np.ndindex(relevant.shape):
        label = str(int(relevant[query, candidate]))
        candidates.append(Candidate(str(candidate), "q", "p", label, query_id=str(query)))
        probability = float(probabilities[query, candidate])
        records.append({"label": "0", "probabilities": {"0": 1 - probability, "1": probability}})
    ours = PassageRanking().score(candidates, records, ["0", "1"])
    theirs = [
        float(retrieval_reciprocal_rank(torch.tensor(probability), torch.tensor(right)))
        for probability, right in zip(probabilities, relevant, strict=True)
    ]
    assert ours["mrr"] == pytest.approx(np.mean(theirs), abs=1e-6)


def test_entities() -> None:
    rng = random.Random(3)  # noqa: S311
    gold = [tagged(rng) for _ in range(100)]
    # Some entities are missing, shorter or of another type; the tags are always valid BIO.
    predictions = [
        bio_tags.to_bio([rng.choice((tag, tag, tag, "O", "I-PER")) for tag in tags])
        for tags in gold
    ]
    lines = []
    for truth, tags in zip(gold, predictions, strict=True):
        lines += [f"word {a} {b}" for a, b in zip(truth, tags, strict=True)] + [""]
    theirs = conlleval.evaluate(lines)["overall"]["chunks"]["evals"]
    ours = entity_f1.scores(gold, predictions, of_entities=True)
    assert 0.2 < ours["f1"] < 0.8
    assert [ours[n] for n in ("f1", "precision", "recall")] == pytest.approx(
        [theirs[n] for n in ("f1", "prec", "rec")], abs=1e-9
    )


def tagged(rng: random.Random) -> list[str]:
    tags: list[str] = []
    while len(tags) < 15:
        name = rng.choice(TYPES)
        inside = [f"I-{name}"] * rng.randrange(3)
        tags += rng.choice(([f"B-{name}", *inside], ["O"]))
    return tags


def test_answers() -> None:
    rng = random.Random(4)  # noqa: S311
    answers = {str(n): [text(rng) for _ in range(rng.randrange(1, 4))] for n in range(200)}
    predictions = {name: rng.choice((rng.choice(of), text(rng))) for name, of in answers.items()}
    ours, theirs = both(answers, predictions)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert 30 < ours[0] < ours[1] < 90


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is missing: no real predictions")
def test_answers_of_a_real_system() -> None:
    gold = json.loads((DATA / "dev-v1.1.rebuilt.json").read_text("utf-8"))
    predictions = json.loads((DATA / "predictions-v1.1-bert-ensemble.json").read_text("utf-8"))
    answers = {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in gold["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    assert len(answers) == 10570
    ours, theirs = both(answers, predictions)
    assert ours == pytest.approx(theirs, abs=1e-3)


def both(
    answers: dict[str, list[str]], predictions: dict[str, str]
) -> tuple[list[float], list[float]]:
    """Return exact match and F1: ours, theirs."""

    def listed(texts: list[str]) -> list[dict[str, Any]]:
        return [{"text": text, "answer_start": 0} for text in texts]

    qas = [{"id": n, "question": "?", "answers": listed(of)} for n, of in answers.items()]
    gold = {"version": "1.1", "data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}
    ours = score(gold, predictions)
    theirs = squad(
        [{"id": name, "prediction_text": answer} for name, answer in predictions.items()],
        [
            {"id": name, "answers": {"text": of, "answer_start": [0] * len(of)}}
            for name, of in answers.items()
        ],
    )
    return [ours["exact"], ours["f1"]], [float(theirs["exact_match"]), float(theirs["f1"])]


def test_summaries() -> None:
    rng = random.Random(5)  # noqa: S311
    pairs = [(text(rng, 30), text(rng, 25)) for _ in range(50)]
    references, predictions = ([side[n] for side in pairs] for n in (0, 1))
    ours = rouge(references, predictions)
    theirs = rouge_score(predictions, references, rouge_keys=("rouge1", "rouge2", "rougeL"))
    assert ours == pytest.approx(
        {name: float(theirs[f"{name}_fmeasure"]) for name in ours}, abs=1e-6
    )


def text(rng: random.Random, words: int = 4) -> str:
    return " ".join(rng.choices(WORDS, k=words))
