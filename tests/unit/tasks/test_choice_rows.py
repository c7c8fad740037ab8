"""Multiple choice questions in the forms in which they are distributed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.tasks.choice_rows import Question
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.task import Columns
from support.commands import ROOT
from support.file_server import file_server

Row = dict[str, Any]
ARC = {"text": ["snow", "rain", "fog"], "label": ["A", "B", "C"]}
FORMS: dict[str, tuple[Row, tuple[str, tuple[str, ...], int]]] = {
    "SWAG of the hub": (
        {
            "video-id": "v", "startphrase": "He rows. The boat", "sent1": "He rows.",
            "sent2": "The boat", "gold-source": "gold",
            "ending0": "sinks.", "ending1": "sings.", "label": 1,
        },
        ("He rows.", ("The boat sinks.", "The boat sings."), 1),
    ),
    "HellaSwag": (
        {
            "ind": 4, "activity_label": "Rowing", "ctx_a": "He rows.", "ctx_b": "the boat",
            "ctx": "He rows. the boat", "endings": ["sinks.", "sings."], "label": "1",
        },
        ("He rows. the boat", ("sinks.", "sings."), 1),
    ),
    "RACE of the hub": (
        {
            "example_id": "high1.txt", "article": "He rows a boat.", "question": "What is it?",
            "options": ["A boat.", "A car."], "answer": "B",
        },
        ("He rows a boat.", ("What is it? A boat.", "What is it? A car."), 1),
    ),
    "RACE with a gap": (
        {"article": "He rows.", "question": "He has _ .", "options": ["one", r"\1"], "answer": "A"},
        ("He rows.", ("He has one .", r"He has \1 ."), 0),
    ),
    "ARC": (
        {"id": "a", "question": "What is it?", "choices": ARC, "answerKey": "C"},
        ("What is it?", ("snow", "rain", "fog"), 2),
    ),
    "ARC with numbers": (
        {
            "question": "What is it?", "answerKey": "1",
            "choices": {"text": ["snow", "rain"], "label": ["1", "2"]},
        },
        ("What is it?", ("snow", "rain"), 0),
    ),
    "CommonsenseQA": (
        {
            "id": "a", "answerKey": "B",
            "question": {
                "question_concept": "sky", "stem": "What is it?",
                "choices": [{"label": "A", "text": "snow"}, {"label": "B", "text": "rain"}],
            },
        },
        ("What is it?", ("snow", "rain"), 1),
    ),
    "CommonsenseQA of the hub": (
        {
            "question": "What is it?", "question_concept": "the sky", "choices": ARC,
            "answerKey": "A",
        },
        ("What is it?", ("snow", "rain", "fog"), 0),
    ),
    "OpenBookQA": (
        {"question_stem": "What is it?", "choices": ARC, "answerKey": "B"},
        ("What is it?", ("snow", "rain", "fog"), 1),
    ),
    "COPA, cause": (
        {
            "premise": "He fell.", "choice1": "It rained.", "choice2": "It snowed.",
            "question": "cause", "idx": 0, "label": 1,
        },
        ("He fell. What was the cause?", ("It rained.", "It snowed."), 1),
    ),
    "COPA, effect": (
        {
            "premise": "He fell.", "choice1": "It hurt.", "choice2": "He ate.",
            "question": "effect", "label": "choice1",
        },
        ("He fell. What happened as a result?", ("It hurt.", "He ate."), 0),
    ),
    "PIQA": (
        {"goal": "To row,", "sol1": "take a boat.", "sol2": "take a car.", "label": 0},
        ("To row,", ("take a boat.", "take a car."), 0),
    ),
    "Cosmos QA": (
        {
            "context": "He rows.", "question": "Why?", "answer0": "For fun.", "answer1": "Rain.",
            "label": 1,
        },
        ("He rows.", ("Why? For fun.", "Why? Rain."), 1),
    ),
    "MMLU": (
        {"question": "2 + 2", "subject": "algebra", "choices": ["3", "4"], "answer": 1},
        ("2 + 2", ("3", "4"), 1),
    ),
}  # fmt: skip


def write(folder: Path, *rows: Row, name: str = "a.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def read(source: str, labeled: bool = True, **columns: str) -> list[Question]:
    return MultipleChoice().read(source, Columns(**columns), labeled)


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, tmp_path: Path) -> None:
    row, (text, choices, label) = FORMS[form]
    (question,) = read(write(tmp_path, row))
    assert (question.text, question.choices, question.label) == (text, choices, label)
    hidden = row | {key: "" for key in ("label", "answerKey", "answer") if key in row}
    (question,) = read(write(tmp_path, hidden), labeled=False)
    assert (question.text, question.choices, question.label) == (text, choices, None)


def race(folder: Path, name: str, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    passage = {
        "id": name, "article": "He rows a boat.", "questions": ["Who?", "It is _."],
        "options": [["He", "She"], ["a boat", "a car"]], "answers": ["A", "B"],
    } | changes  # fmt: skip
    (folder / name).write_text(json.dumps(passage), "utf-8")


def test_the_files_of_race(tmp_path: Path) -> None:
    race(tmp_path / "high", "high1.txt")
    race(tmp_path / "middle", "middle2.txt")
    questions = read(str(tmp_path))
    assert [question.id for question in questions] == [
        "high1.txt-0", "high1.txt-1", "middle2.txt-0", "middle2.txt-1",
    ]  # fmt: skip
    assert questions[1].choices == ("It is a boat.", "It is a car.")
    assert [question.label for question in questions] == [0, 1, 0, 1]
    assert len(read(f"{tmp_path}/high/high1.txt")) == 2
    race(tmp_path / "high", "high1.txt", answers=["A"])
    with pytest.raises(BadInputError, match=r"high1\.txt: 'questions', 'options' and 'answers'"):
        read(str(tmp_path))
    race(tmp_path / "high", "high1.txt", answers=["A", "C"])
    with pytest.raises(BadInputError, match=r"high1\.txt, question 2: label 'C'"):
        read(str(tmp_path))


def test_files_of_race_are_compressed_bad_or_on_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "train"
    race(folder / "high", "high1.txt")
    race(folder / "middle", "middle2.txt")
    expected = read(str(folder))
    packed = folder / "middle" / "middle2.txt.gz"
    packed.write_bytes(gzip.compress((folder / "middle" / "middle2.txt").read_bytes()))
    (folder / "middle" / "middle2.txt").unlink()
    assert read(str(folder)) == expected
    assert read(str(packed)) == expected[2:]
    with file_server(tmp_path / "data") as url:
        assert read(f"{url}/train/") == expected
        assert read(f"{url}/train/high/high1.txt") == expected[:2]
    (folder / "high" / "high0.txt").write_text('{"id": \n')
    with pytest.raises(BadInputError, match=r"high0\.txt, line 2"):
        read(str(folder))
    task = MultipleChoice(None, BadRows(skip=True, most=0.5))
    assert task.read(str(folder), Columns(), labeled=True) == expected
    assert "1 row skipped" in (report := capsys.readouterr().err)
    assert "high0.txt" in report


def test_the_columns_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(write(tmp_path, FORMS["SWAG of the hub"][0]))
    line = capsys.readouterr().err
    for words in ("text 'sent1'", "before each choice 'sent2'", "choices 'ending0'", "startphrase"):
        assert words in line


def test_numbers_of_choices_may_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"question": "the man", "answerKey": "B"}
    two = {"text": ["the store", "milk"], "label": ["A", "B"]}
    three = {"text": ["in", "the", "store"], "label": ["A", "B", "C"]}
    questions = read(write(tmp_path, row | {"choices": two}, row | {"choices": three}))
    assert "2 in 1 questions, 3 in 1 questions" in capsys.readouterr().err
    task, tokenizer = MultipleChoice(), tokenizers.load(ROOT / "tests/golden/tf1")
    features = task.features(questions, tokenizer, 32, ["score"])
    assert features.arrays["segment_ids"].any(axis=-1).tolist() == [[True, True, False], [True] * 3]
    assert len(features.lengths) == 5
    # The missing choice has the largest logit and counts for nothing.
    logits = np.array([[0.0, np.log(3), 9.0], [0.0, 0.0, 0.0]], np.float32)[..., None]
    first, second = task.predict(questions, features, logits, ["score"])
    assert first["label"] == 1
    assert first["probabilities"] == pytest.approx([0.25, 0.75])
    assert len(second["probabilities"]) == 3
    batch = {name: jnp.asarray(array) for name, array in features.arrays.items()}
    sums = task.objective(jnp.asarray(logits), batch)
    assert float(sums.loss) == pytest.approx(-np.log(0.75) + np.log(3), rel=1e-6)
    assert (float(sums.correct), float(sums.count)) == (1, 2)


def test_trailing_empty_cells_are_no_choices(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "text,ending0,ending1,ending2,label\nthe man,a,b,c,2\nthe store,a,b,,1\n"
    )
    assert [question.choices for question in read(f"{tmp_path}/a.csv")] == [
        ("a", "b", "c"),
        ("a", "b"),
    ]
    (tmp_path / "a.csv").write_text("text,ending0,ending1,label\nthe man,a,,0\n")
    with pytest.raises(BadInputError, match="line 2 has 1 choices in ending0, ending1"):
        read(f"{tmp_path}/a.csv")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": -1}, "label '-1' is not a choice; the labels of this data set are hidden"),
        ({"label": 4}, "label '4' is not a choice; write 0 to 1, or A to B"),
        ({"label": ""}, "'label' is empty"),
        ({"label": None}, "'label' is missing"),
        ({"label": "C"}, "label 'C'"),
        ({"choices": {"text": ["a", "b"], "label": ["1", "2"]}, "label": "A"}, "write 1, 2"),
        ({"choices": {"text": ["a", "b"], "label": ["1"]}}, "'choices' is not a list"),
        ({"choices": [{"label": "A"}, {"label": "B"}]}, "'choices' is missing"),
        ({"choices": ["a"]}, "'choices' is not a list of at least two"),
        ({"choices": None}, "'choices' is not a list"),
    ],
)
def test_wrong_values_are_located(changes: Row, words: str, tmp_path: Path) -> None:
    row = {"text": "the man", "choices": ["a", "b"], "label": 0}
    with pytest.raises(BadInputError, match=f"line 2: .*{words}"):
        read(write(tmp_path, row, row | changes))


def test_another_column_of_text_is_asked_about(tmp_path: Path) -> None:
    rows = [
        {"text": f"He rows {n}.", "hint": f"It is a boat {n}.", "choices": ["a", "b"], "label": 0}
        for n in range(4)
    ]
    source = write(tmp_path, *rows)
    with pytest.raises(BadInputError, match=r"'hint' looks like text, too.*--data\.columns\.pair"):
        read(source)
    assert read(source, pair="hint")[0].choices == ("It is a boat 0. a", "It is a boat 0. b")
    assert read(source, pair="none")[0].choices == ("a", "b")


def test_a_table_without_a_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no column called text.*--data\.columns\.text"):
        read(write(tmp_path, {"sentence": "a", "choices": ["a", "b"], "label": 0}))
