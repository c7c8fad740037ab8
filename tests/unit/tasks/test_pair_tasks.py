"""Classification, regression, choice and ranking: from files to predictions and metrics."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import ranking, sequences
from pipelines.tasks.classification import Classification, confusion
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.ranking import PassageRanking
from pipelines.tasks.regression import Regression
from pipelines.tasks.tables.examples import Example
from pipelines.tasks.task import Columns, Record
from support.commands import ROOT


@pytest.fixture(params=["wordpiece", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_dir: Path) -> Tokenizer:
    folder = ROOT / "tests/golden/tf1" if request.param == "wordpiece" else tokenizer_dir
    return tokenizers.load(folder)


@pytest.fixture(scope="session")
def word_piece() -> Tokenizer:
    """Return a tokenizer with the ids [CLS] 2, [SEP] 3, the 9, in 10, man 13, store 14, milk 15."""
    return tokenizers.load(ROOT / "tests/golden/tf1")


def truncated(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """As google-research/bert does it."""
    a, b = list(a), list(b)
    while len(a) + len(b) > room:
        (a if len(a) > len(b) else b).pop()
    return a, b


def test_rows_are_cut_as_google_research_cuts_them(word_piece: Tokenizer) -> None:
    sizes = list(product(range(7), repeat=2))
    a = [list(range(10, 10 + n)) for n, _ in sizes]
    b = [list(range(30, 30 + n)) for _, n in sizes]
    for length in (5, 8, 12, 64):
        arrays = sequences.rows(a, b, word_piece, length)
        T = arrays["token_ids"].shape[1]
        assert min(length, 16) == T  # 6 + 6 tokens and 3 special ones
        for row, (left, right) in enumerate(zip(a, b, strict=True)):
            cut_a, cut_b = truncated(left, right, length - (3 if right else 2))
            expected = [2, *cut_a, 3, *([*cut_b, 3] if right else [])]
            segments = [0] * (len(cut_a) + 2) + [1] * (len(cut_b) + 1 if right else 0)
            padding = [0] * (T - len(expected))
            assert arrays["token_ids"][row].tolist() == expected + padding
            assert arrays["token_type_ids"][row].tolist() == segments + padding
            assert arrays["segment_ids"][row].tolist() == [1] * len(expected) + padding
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int32)}


def labeled(*labels: str) -> list[Example]:
    return [Example(str(n), "a man", label=label) for n, label in enumerate(labels)]


def test_pairs_are_read_encoded_and_classified(tmp_path: Path, word_piece: Tokenizer) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("label\tsentence1\tsentence2\nyes\tThe man\tin the store\nno\tman\tstore\n")
    task = Classification()
    examples = task.read(str(file), Columns(), labeled=True)
    classes = task.classes(examples)
    assert classes == ["no", "yes"]
    features = task.features(examples, word_piece, 128, classes)
    assert features.arrays["token_ids"].tolist() == [
        [2, 9, 13, 3, 10, 9, 14, 3],
        [2, 13, 3, 14, 3, 0, 0, 0],
    ]
    assert features.arrays["token_type_ids"].tolist() == [
        [0] * 4 + [1] * 4,
        [0] * 3 + [1] * 2 + [0] * 3,
    ]
    assert features.arrays["labels"].tolist() == [1, 0]
    assert features.arrays["weights"].tolist() == [1.0, 1.0]
    assert features.examples.tolist() == [0, 1]

    logits = np.array([[[0.0, math.log(3)]], [[0.0, 0.0]]], np.float32)
    batch = {name: jnp.asarray(array) for name, array in features.arrays.items()}
    sums = task.objective(jnp.asarray(logits), batch)
    assert float(sums.loss) == pytest.approx(math.log(4 / 3) + math.log(2))
    assert (float(sums.correct), float(sums.count)) == (2, 2)
    first, second = task.predict(examples, features, logits, classes)
    assert (first["id"], first["label"]) == ("0", "yes")
    assert first["probabilities"] == pytest.approx({"no": 0.25, "yes": 0.75})
    assert second == {"id": "1", "label": "no", "probabilities": {"no": 0.5, "yes": 0.5}}
    json.dumps([first, second])


def test_rows_that_fill_up_a_batch_and_rows_without_label_count_for_nothing(
    tokenizer: Tokenizer,
) -> None:
    task = Classification()
    features = task.features(labeled("x", ""), tokenizer, 32, ["w", "x"])
    batch = {
        name: jnp.concatenate([jnp.asarray(array), jnp.zeros_like(array[:1])])
        for name, array in features.arrays.items()
    }
    sums = task.objective(jnp.zeros((3, 1, 2)), batch)
    assert float(sums.count) == 1
    assert float(sums.loss) == pytest.approx(math.log(2))


def test_classes_are_reported_and_must_be_two(capsys: pytest.CaptureFixture[str]) -> None:
    task = Classification()
    assert task.classes(labeled("b", "a", "b", "b")) == ["a", "b"]
    assert "2 classes: b 3 (75.0%), a 1 (25.0%)" in capsys.readouterr().err
    many = task.classes(labeled(*(f"c{n:02}" for n in range(40)), "c07"))
    assert len(many) == 40
    stderr = capsys.readouterr().err
    assert "40 classes: c07 2 (4.9%), " in stderr
    assert stderr.count("\n") == 1
    assert stderr.count("%") == 10
    with pytest.raises(BadInputError, match=r"all rows have the label 'a'; .* at least two"):
        task.classes(labeled("a", "a"))
    # MRPC has "not_equivalent" first: F1 is that of "equivalent", as published.
    ordered = [Example("0", "", label="same", rank=1), Example("1", "", label="unlike", rank=0)]
    assert task.classes(ordered) == ["unlike", "same"]


def test_an_unknown_label_is_refused(word_piece: Tokenizer) -> None:
    examples = [Example("0", "a", label="maybe", where="a.csv, line 2")]
    with pytest.raises(
        BadInputError, match=r"a.csv, line 2: label 'maybe' is not a class .*no, yes"
    ):
        Classification().features(examples, word_piece, 32, ["no", "yes"])


def test_classes_without_names_and_classes_that_look_alike_are_named(
    word_piece: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Classification()
    with pytest.raises(BadInputError, match="id2label"):
        task.features(labeled("0", "1"), word_piece, 8, ["LABEL_0", "LABEL_1"])
    assert task.classes(labeled("Yes", "yes", "no")) == ["Yes", "no", "yes"]
    assert "Yes and yes" in capsys.readouterr().err
    assert task.classes(labeled("0", "1", "1.0")) == ["0", "1", "1.0"]
    assert "1 and 1.0" in capsys.readouterr().err
    task.classes(labeled("no", "none", "0.1", "0.10"))
    assert " and " not in capsys.readouterr().err


def answered(*labels: str) -> list[Record]:
    return [{"id": str(n), "label": label} for n, label in enumerate(labels)]


def test_metrics_of_classes_are_those_of_the_text_books() -> None:
    task = Classification()
    # Of yes: 2 found of 3, 1 wrongly: precision 2/3, recall 2/3; MCC (2·2 - 1·1)/√(3·3·3·3).
    truth, result = labeled(*"yyynnn"), answered(*"yynynn")
    assert task.score(truth, result, ["n", "y"]) == pytest.approx(
        {"accuracy": 4 / 6, "f1": 2 / 3, "mcc": 3 / 9}
    )
    assert confusion(truth, result, ["n", "y"]) == [[2, 1], [1, 2]]
    # F1 of a: 2/3, b: 2/3, c: 0.
    truth, result = labeled(*"aabc"), answered(*"abbb")
    scores = task.score(truth, result, ["a", "b", "c", "d"])
    assert scores["accuracy"] == 0.5
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert confusion(truth, result, ["a", "b", "c", "d"]) == [
        [1, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
    ]


def test_metrics_are_defined_where_only_one_class_occurs() -> None:
    truth, result = labeled("n", "n"), answered("n", "n")
    scores = Classification().score(truth, result, ["n", "y"])
    assert scores == {"accuracy": 1.0, "f1": 0.0, "mcc": 0.0}
    assert confusion(truth, result, ["n", "y"]) == [[2, 0], [0, 0]]


def test_empty_and_very_long_texts_become_rows(tokenizer: Tokenizer) -> None:
    texts = ["", " \n", "the captain " * 50_000, "\0 \u200b"]
    examples = [Example(str(n), text, pair) for n, (text, pair) in enumerate(product(texts, texts))]
    arrays = Classification().features(examples, tokenizer, 50, ["x", "y"]).arrays
    assert arrays["token_ids"].shape == (16, 50)
    assert arrays["token_ids"][0, :3].tolist() == [tokenizer.cls_id, tokenizer.sep_id, 0]
    assert arrays["segment_ids"][0].sum() == 2
    assert arrays["segment_ids"][10].sum() == 50  # long, long


def test_values_are_learned_by_squared_error_and_judged_by_correlation(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    file = tmp_path / "a.csv"
    file.write_text("sentence1,sentence2,score\na man,a man,5\na man,a boat,1.5\na,b,1\nb,a,2e0\n")
    task = Regression()
    examples = task.read(str(file), Columns(), labeled=True)
    assert task.classes(examples) == ["value"]
    features = task.features(examples, tokenizer, 32, ["value"])
    logits = np.array([4, 1.5, 2, 3], np.float32).reshape(4, 1, 1)
    batch = {name: jnp.asarray(array) for name, array in features.arrays.items()}
    sums = task.objective(jnp.asarray(logits), batch)
    assert sums.correct is None
    assert (float(sums.loss), float(sums.count)) == (1 + 0 + 1 + 1, 4)
    predictions = task.predict(examples, features, logits, ["value"])
    assert predictions[1] == {"id": "1", "value": 1.5}
    # Deviations from the means: labels 2.625, -0.875, -1.375, -0.375,
    # values 1.375, -1.125, -0.625, 0.375.
    pearson = 5.3125 / math.sqrt(9.6875 * 3.6875)
    # Ranks 4 2 1 3 and 4 1 2 3: squared differences 0 1 1 0.
    spearman = 1 - 6 * 2 / (4 * 15)
    assert task.score(examples, predictions, ["value"]) == pytest.approx(
        {"pearson": pearson, "spearman": spearman}
    )
    constant = [{"id": e.id, "value": 2.5} for e in examples]
    assert task.score(examples, constant, ["value"]) == {"pearson": 0.0, "spearman": 0.0}
    assert task.score(examples[:1], constant[:1], ["value"])["pearson"] == 0


@pytest.mark.parametrize("label", ["3,5", "nan", "inf", "high"])
def test_a_value_must_be_a_number(tmp_path: Path, label: str) -> None:
    file = tmp_path / "a.tsv"
    file.write_text(f"text\tlabel\na\t1\nb\t{label}\n")
    with pytest.raises(BadInputError, match=rf"line 3: label '{label}' is not a number"):
        Regression().read(str(file), Columns(), labeled=True)
    examples = Regression().read(str(file), Columns(), labeled=False)
    with pytest.raises(BadInputError, match="all rows have the label 1"):
        Regression().classes([Example("0", "a", label="1"), Example("1", "b", label="1.0")])
    assert [e.label for e in examples] == ["", ""]


def test_choices_are_pairs_with_their_text(tmp_path: Path, word_piece: Tokenizer) -> None:
    rows = [
        {"text": "the man", "choices": ["in the store", "milk", ""], "label": 2},
        {"text": "store", "choices": ["the", "in", "man"], "label": 0},
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    task = MultipleChoice()
    examples = task.read(str(file), Columns(), labeled=True)
    features = task.features(examples, word_piece, 64, task.classes(examples))
    assert features.arrays["token_ids"].shape == (2, 3, 8)
    assert features.arrays["token_ids"][0].tolist() == [
        [2, 9, 13, 3, 10, 9, 14, 3],
        [2, 9, 13, 3, 15, 3, 0, 0],
        [2, 9, 13, 3, 0, 0, 0, 0],
    ]
    assert features.arrays["token_type_ids"][1].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]] * 3
    logits = np.log(np.array([[1, 1, 2], [1, 2, 1]], np.float32))[..., None]
    batch = {name: jnp.asarray(array) for name, array in features.arrays.items()}
    sums = task.objective(jnp.asarray(logits), batch)
    assert float(sums.loss) == pytest.approx(math.log(2) + math.log(4))
    assert (float(sums.correct), float(sums.count)) == (1, 2)
    predictions = task.predict(examples, features, logits, ["score"])
    assert predictions[1] == {
        "id": "1",
        "label": 1,
        "choice": "in",
        "probabilities": pytest.approx([0.25, 0.5, 0.25]),
    }
    assert task.score(examples, predictions, ["score"]) == {"accuracy": 0.5}


def test_the_columns_of_swag_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "swag.csv"
    file.write_text(
        "video-id,sent1,sent2,ending0,ending1,ending2,ending3,label\n"
        "v,He rows.,The boat,sinks.,sings.,\"tips, and\",\"is sold.\",3\n"
    )  # fmt: skip
    (example,) = MultipleChoice().read(str(file), Columns(), labeled=True)
    ends = ("sinks.", "sings.", "tips, and", "is sold.")
    assert example.text == "He rows."
    assert example.choices == tuple(f"The boat {end}" for end in ends)
    assert example.label == 3
    (plain,) = MultipleChoice().read(str(file), Columns(text="sent2"), labeled=False)
    assert (plain.text, plain.choices, plain.label) == ("The boat", ends, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "choices": ["b", "c"], "label": 2}, "line 2: label '2' .*0 to 1, or A to B"),
        ({"text": "a", "choices": "b", "label": 0}, "line 2: 'choices' is not a list of at least"),
        ({"text": "a", "choices": ["b", 1], "label": 0}, "line 2: 'choices' is not text but 1"),
    ],
)
def test_a_bad_question_is_located(tmp_path: Path, row: Record, message: str) -> None:
    good = {"text": "a", "choices": ["b", "c"], "label": "b"}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps(row))
    with pytest.raises(BadInputError, match=message):
        MultipleChoice().read(str(file), Columns(), labeled=True)


def test_a_table_without_choices_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,ending0,label\na,b,0\n")
    with pytest.raises(BadInputError, match="ending1 …; its columns are text, ending0, label"):
        MultipleChoice().read(str(file), Columns(), labeled=True)


def test_an_ending_of_thousands_of_digits_is_none(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "a", f"ending{'9' * 5001}": "b", "ending1": "c"}))
    with pytest.raises(BadInputError, match="columns ending0, ending1"):
        MultipleChoice().read(str(file), Columns(), labeled=True)


def test_passages_are_ranked_and_counted_by_query(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    relevant = {"x": "010", "y": "100000000001", "z": "00"}
    rows = [
        {
            "query": f"what is {query}",
            "passage": f"a man {n}",
            "query_id": query,
            "label": int(label),
        }
        for query, labels in relevant.items()
        for n, label in enumerate(labels)
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    task = PassageRanking()
    candidates = task.read(str(file), Columns(), labeled=True)
    classes = task.classes(candidates)
    features = task.features(candidates, tokenizer, 32, classes)
    # The first passage of x and the last of y (rank 12 of y is passage 0) get the most.
    scores = [3, 2, 1, *range(1, 12), 0.5, 1, 2]
    logits = np.zeros((17, 1, 2), np.float32)
    logits[:, 0, 1] = scores
    predictions = task.predict(candidates, features, logits, classes)
    ranked = ranking.rank(ranking.scored(candidates, predictions, classes))
    assert [[record["id"] for record in records] for records in ranked] == [
        ["0", "1", "2"],
        ["13", "12", "11", "10", "9", "8", "7", "6", "5", "4", "3", "14"],
        ["16", "15"],
    ]
    assert ranked[0][0]["rank"] == 1
    result = task.score(candidates, predictions, classes)
    # x: rank 2; y: passages 0 and 11 at ranks 11 and 12; z: none.
    assert result["mrr"] == pytest.approx((1 / 2 + 1 / 11 + 0) / 3)
    assert result["mrr@10"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert "1 of 3 queries have no relevant passage" in capsys.readouterr().err
    unlabeled = task.read(str(file), Columns(), labeled=False)
    assert "relevant" not in ranking.scored(unlabeled, predictions, classes)[0]


def test_equal_scores_are_not_ordered_by_the_file() -> None:
    records = [
        {"query_id": str(query), "id": f"{query}-{n}", "score": 0.5, "relevant": n == 0}
        for query in range(500)
        for n in range(10)
    ]
    expected = sum(1 / n for n in range(1, 11)) / 10  # of a random order
    for order in (records, records[::-1]):
        assert ranking.reciprocal_rank(ranking.rank(order)) == pytest.approx(expected, abs=0.04)
    assert sorted(map(str, ranking.rank(records))) == sorted(map(str, ranking.rank(records[::-1])))


def test_queries_without_ids_are_distinguished_by_their_text(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("query,passage,label\nwho,a,0\nwhat,b,1\nwho,c,1\n")
    candidates = PassageRanking().read(str(file), Columns(), labeled=True)
    assert [candidate.query_id for candidate in candidates] == ["who", "what", "who"]
    file.write_text("query,passage,label\nwho,a,0\nwhat,b,1\nwho,c,2\n")
    with pytest.raises(
        BadInputError, match=r"a.csv has 3 different labels \(0, 1, 2\); .*relevant"
    ):
        PassageRanking().classes(PassageRanking().read(str(file), Columns(), labeled=True))
    file.write_text("query,label\nwho,0\n")
    with pytest.raises(BadInputError, match=r"passage, .*columns are query, label; .*columns.pair"):
        PassageRanking().read(str(file), Columns(), labeled=True)


def test_minus_one_is_a_value_of_a_regression(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    rows = "".join(f"a man,{value}\n" for value in (-1, 0, 1, 2, -1))
    file.write_text(f"text,score\n{rows}")
    values = [example.label for example in Regression().read(str(file), Columns(), labeled=True)]
    assert values == ["-1", "0", "1", "2", "-1"]
    assert len(Classification().read(str(file), Columns(label="score"), labeled=True)) == 3
