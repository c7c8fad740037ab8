"""Questions in the forms in which they are distributed."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.qa.read import Question, read
from pipelines.tasks.qa.score import score
from support.commands import ROOT

SHARED = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))
CONTEXT = "the cat is good"
QUESTION = Question("1", "who", CONTEXT, ("the cat",), (0, 7))
LISTS = {"text": ["the cat"], "answer_start": [0]}
OBJECTS = [{"text": "the cat", "answer_start": 0}]
ROW = {"id": 1, "title": "t", "context": CONTEXT, "question": "who", "answers": LISTS}
QA = {"id": 1, "question": "who", "answers": OBJECTS}
PARAGRAPH = {"context": CONTEXT, "qas": [QA]}
ARTICLE = {"title": "t", "paragraphs": [PARAGRAPH]}


def write(folder: Path, content: Any, name: str = "a.json") -> str:
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    else:
        path.write_text(json.dumps(content), "utf-8")
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        {"version": "1.1", "data": [ARTICLE]},
        [ARTICLE],
        [PARAGRAPH],
        ARTICLE,
        PARAGRAPH,
        [ROW],
        {"version": "0.1.0", "data": [ROW]},  # as in the examples of transformers
        [ROW | {"answers": OBJECTS}],
        [ROW | {"answers": {"text": "the cat", "answer_start": 0}}],
    ],
)
def test_every_form_of_json(content: Any, tmp_path: Path) -> None:
    source = write(tmp_path, content)
    assert read(source, labeled=True) == [QUESTION]
    assert read(source, labeled=False) == [Question("1", "who", CONTEXT)]


@pytest.mark.parametrize("row", [ROW, ROW | {"answers": OBJECTS}, ARTICLE, PARAGRAPH])
def test_json_lines(row: dict[str, Any], tmp_path: Path) -> None:
    assert read(write(tmp_path, [row], "a.jsonl"), labeled=True) == [QUESTION]


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    """`Dataset.to_json` of Hugging Face writes them."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"id": 2}) + "\n")
    assert [question.id for question in read(str(path), labeled=True)] == ["1", "2"]


def test_tables_of_the_hub(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([ROW, ROW | {"id": 2}])
    pq.write_table(rows, tmp_path / "a.parquet")
    assert read(f"{tmp_path}/a.parquet", labeled=True)[0] == QUESTION
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode()))
    assert read(f"{tmp_path}/a.jsonl.gz", labeled=True) == [QUESTION]
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps({"data": [ARTICLE]}).encode()))
    assert read(f"{tmp_path}/a.json.gz", labeled=True) == [QUESTION]


def test_the_distributed_rows_are_read() -> None:
    folder = SHARED / "formats" / "finetune"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    questions = read(f"{folder}/hf_squad.jsonl", labeled=True)
    assert len(questions) == 200
    assert all(question.span is not None for question in questions)
    assert read(f"{folder}/hf_squad.parquet", labeled=True)[:9] == questions[:9]


def test_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    row = {key: value for key, value in ROW.items() if key != "id"}
    questions = read(write(tmp_path, [row, row], "a.jsonl"), labeled=True)
    assert [question.id for question in questions] == ["0", "1"]


def test_rows_without_answers_are_predicted(tmp_path: Path) -> None:
    row = {"context": CONTEXT, "question": "who"}
    assert read(write(tmp_path, [row], "a.jsonl"), False) == [Question("0", "who", CONTEXT)]
    hidden = row | {"answers": None}
    assert read(write(tmp_path, [hidden], "a.jsonl"), False) == [Question("0", "who", CONTEXT)]
    (tmp_path / "a.csv").write_text("question,context\nwho,the cat is good\n")
    assert read(f"{tmp_path}/a.csv", labeled=False) == [Question("0", "who", CONTEXT)]


def test_rows_with_empty_lists_are_squad_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = ROW | {"id": 2, "answers": {"text": [], "answer_start": []}}
    questions = read(write(tmp_path, [ROW, empty, ROW | {"id": 3}], "a.jsonl"), labeled=True)
    assert [question.impossible for question in questions] == [False, True, False]
    assert "1 of 3 questions have no answer" in capsys.readouterr().err
    # A test split without answers is not a data set in which there are none.
    with pytest.raises(BadInputError, match="no question has an answer"):
        read(write(tmp_path, [empty], "a.jsonl"), labeled=True)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"context": CONTEXT, "text": "who"}, "line 1 is neither .* 'context', 'text'"),
        (ROW | {"answers": "the cat"}, "line 1: 'answers' must have the lists"),
        (ROW | {"answers": {"text": ["a"]}}, "'answers' must have the lists"),
        (ROW | {"answers": {"text": ["a"], "answer_start": []}}, "must have the lists"),
        (ROW | {"answers": ["the cat"]}, r"answers\[0\] must be an object"),
        (ROW | {"answers": None}, "'answers' must be a list, not None"),
        ({key: ROW[key] for key in ("context", "question")}, "line 1 has no 'answers'"),
        (ROW | {"question": 5}, "'question' must be a str, not 5"),
    ],
)
def test_other_rows_are_located(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"a\.jsonl, .*" + words):
        read(write(tmp_path, [row], "a.jsonl"), labeled=True)


def test_a_csv_file_cannot_have_lists_of_answers(tmp_path: Path) -> None:
    text = "id,question,context,answers\n1,who,the cat is good,\"{'text': ['the cat']}\"\n"
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(BadInputError, match="line 2: 'answers' must have the lists"):
        read(f"{tmp_path}/a.csv", labeled=True)


@pytest.mark.parametrize("content", [5, "text", {}, {"data": {}}, [5], [[ROW]], {"rows": [ROW]}])
def test_json_of_another_form_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"a\.json"):
        read(write(tmp_path, content), labeled=True)


def test_scores_do_not_depend_on_the_form() -> None:
    for gold in ({"data": [ARTICLE]}, {"data": [ROW]}):
        assert score(gold, {"1": "cat"}) == {"exact": 100.0, "f1": 100.0, "total": 1}
