"""The scores of SQuAD, by hand and against the published figures."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.qa.score import normalized, score
from support.answers import DATA, real


def gold(version: str, **answers: list[str]) -> dict[str, Any]:
    """A file with a question of each name."""
    qas = [
        {"id": name, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in of]}
        for name, of in answers.items()
    ]
    return {"version": version, "data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat's\tanswer.", "cats answer"),
        ("a theatre, an anthem", "theatre anthem"),
        ("U.S.", "us"),
        ("well-known", "wellknown"),
        ("“the” 5 €", "“ ” 5 €"),  # only ASCII punctuation goes
        ("the", ""),
    ],
)
def test_case_punctuation_articles_and_white_space_do_not_count(text: str, expected: str) -> None:
    assert normalized(text) == expected


def test_the_right_answer_that_is_nearest_counts() -> None:
    answers = gold("1.1", one=["cat sat down", "dog"], two=["x y"])
    result = score(answers, {"one": "the cat sat", "two": "X, y!", "unknown": "z"})
    # Both words are right, two of three were found: 2 · 1 · 2/3 / (1 + 2/3) = 0.8.
    assert result == {"exact": 50.0, "f1": pytest.approx(90.0), "total": 2}


def test_repeated_words_count_as_often_as_both_have_them() -> None:
    result = score(gold("1.1", one=["b b c"]), {"one": "b b b d"})
    assert result["f1"] == pytest.approx(100 * 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))


def test_two_answers_of_articles_only_are_the_same_words_in_version_2_only() -> None:
    answers = {"one": ["The"], "two": ["x"]}
    assert score(gold("1.1", **answers), {"one": "a", "two": "x"})["f1"] == 50.0
    assert score(gold("v2.0", **answers), {"one": "a", "two": "x"})["f1"] == 100.0


def test_a_missing_prediction_is_wrong_and_reported_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = score(gold("1.1", one=["x"], two=["y"], three=["z"]), {"two": "y"})
    assert result["exact"] == pytest.approx(100 / 3)
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert "2 of 3 questions have no prediction" in stderr


def test_questions_with_and_without_an_answer_are_distinguished() -> None:
    answers = gold("v2.0", a=["x y"], b=["z"], c=[], d=[])
    result = score(answers, {"a": "x", "b": "", "c": "", "d": "w"})
    assert result == {
        "exact": 25.0,
        "f1": pytest.approx((2 / 3 + 1) / 4 * 100),
        "total": 4,
        "HasAns_exact": 0.0,
        "HasAns_f1": pytest.approx((2 / 3) / 2 * 100),
        "HasAns_total": 2,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }


def test_the_threshold_is_where_the_score_is_best() -> None:
    answers = gold("v2.0", a=["x y"], b=["z"], c=[], d=[])
    predictions = {"a": "x", "b": "z", "c": "v", "d": "w"}
    odds = {"a": -4.0, "b": -2.0, "c": -3.0, "d": 1.5}
    # All silent: 2 right. With a: exact 2, F1 2 2/3; with c one less; with b one more; d: less.
    expected = {
        "best_exact": 50.0,
        "best_exact_thresh": 0.0,
        "best_f1": pytest.approx(100 * (2 + 2 / 3) / 4),
        "best_f1_thresh": -4.0,
    }
    result = score(answers, predictions, odds)
    assert {name: result[name] for name in expected} == expected
    # As officially, an answer with odds above 1 is taken back before it is scored …
    assert result["exact"] == 50.0
    assert result["NoAns_exact"] == 50.0
    # … unless asked otherwise.
    assert score(answers, predictions, odds, math.inf)["NoAns_exact"] == 0.0
    assert score(answers, predictions, odds, -3.5)["f1"] == expected["best_f1"]


def test_version_2_is_also_recognized_by_its_key() -> None:
    answers = gold("mine", a=["x"])
    assert "HasAns_f1" not in score(answers, {"a": "x"})
    answers["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = False
    assert score(answers, {"a": "x"})["HasAns_f1"] == 100.0


@pytest.mark.parametrize(
    ("answers", "predictions", "words"),
    [
        (gold("1.1", a=["x"]), {"a": ["x"]}, "the prediction of a must be a text"),
        (gold("1.1", a=[]), {"a": "x"}, r"data\[0\].paragraphs\[0\].qas\[0\] has no answers"),
        ({"version": "1.1"}, {}, "the gold file has no 'data'; .*'version'"),
        ({"data": []}, {}, "no questions"),
    ],
)
def test_files_that_cannot_be_scored_are_reported(
    answers: dict[str, Any], predictions: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInputError, match=words):
        score(answers, predictions)


def load(name: str) -> dict[str, Any]:
    return json.loads((DATA / name).read_text("utf-8"))


@real
def test_the_published_figures_come_out_to_the_last_digit() -> None:
    result = score(load("dev-v1.1.rebuilt.json"), load("predictions-v1.1-bert-ensemble.json"))
    assert result == {"exact": 86.20624408703878, "f1": 92.19557978351129, "total": 10570}


@real
def test_the_published_figures_come_out_where_predictions_are_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    predictions = load("predictions-v1.1-logistic-regression.json")
    result = score(load("dev-v1.1.rebuilt.json"), predictions)
    assert (round(result["exact"], 4), round(result["f1"], 4)) == (40.1419, 50.9815)
    assert "13 of 10,570 questions have no prediction" in capsys.readouterr().err


@real
def test_silence_is_right_where_there_is_no_answer() -> None:
    answers = load("dev-v2.0.rebuilt.json")
    qas = [
        qa
        for article in answers["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    silent = score(answers, {qa["id"]: "" for qa in qas})
    assert silent["exact"] == silent["f1"] == 100 * 5945 / 11873
    assert silent["NoAns_f1"] == 100
    assert silent["HasAns_f1"] == 0
    right = {qa["id"]: (qa["answers"] or [{"text": ""}])[0]["text"] for qa in qas}
    assert score(answers, right)["f1"] == 100
