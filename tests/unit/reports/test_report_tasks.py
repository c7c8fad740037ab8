"""Reports of fine-tuned runs show their training data and predictions."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from pipelines.data.tokenizers.tokenizer import Tokenizer, load
from pipelines.reports.write import write
from pipelines.tasks.registry import TASKS, open_task
from pipelines.tasks.reporting import around, facts
from pipelines.tasks.tagging import entity_f1
from pipelines.tasks.task import Columns
from support.commands import invoke, refused
from support.finetuned import FILES, MODEL, options, run
from support.report_page import EVIL, read, table, tables, text_of
from support.task_files.task_files import write_json_lines


def page(folder: Path) -> Element:
    write([folder], folder / "report.html")
    return read(folder / "report.html")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def looked_at(root: Element) -> list[dict[str, str]]:
    """The rows of the table of first predictions, by column."""
    head, *rows = table(root, "id")
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load(MODEL)


@pytest.mark.parametrize("task", FILES)
def test_training_data_and_predictions_of_a_run(
    task: str, finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    made, files = finetuned(task), FILES[task]
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    root = page(folder)
    examples = files.expected(made / f"validation.{files.suffix}")
    records = lines(folder / "validation_predictions.jsonl")
    rows = looked_at(root)
    assert len(rows) == 12
    marks = [row.get("class") == "marked" for row in _body(root, "id")]
    for row, record, example, mark in zip(rows, records, examples, marks, strict=False):
        assert row["id"] == record["id"]
        assert row[files.column] == example.input
        assert row["true"] == example.true
        assert row["predicted"] == files.predicted(record)
        if files.probability is not None:
            assert row["probability"] == f"{files.probability(record):.1%}"
        if example.answer is None:
            assert "right?" not in row
        else:
            right = files.answer(record) == example.answer
            assert row["right?"] == ("✓ right" if right else "✗ wrong")
            assert mark == (not right)
    _check_data(task, root, made, [label for example in examples for label in example.labels])


def _check_data(task: str, root: Element, folder: Path, labels: list[str]) -> None:
    numbers = {row[0]: row[1:] for row in table(root, "of the examples")[1:]}
    assert table(root, "of the examples")[0] == ["of the examples", "training", "validation"]
    assert numbers["examples"] == ["64", "33"]
    assert any(name.startswith("longer than a row") for name in numbers)
    histograms = [
        f for f in root.iter("figure") if text_of(f[0]).startswith("Tokens of an example")
    ]
    assert len(histograms) == 2
    assert str(folder) in text_of(root), "the names of the files"
    heading = [TASKS[task].label_title, "training", "validation"]
    if not labels:
        assert heading not in [rows[0] for rows in tables(root)]
        return
    counted = next(rows for rows in tables(root) if rows[0] == heading)
    assert {row[0]: row[2] for row in counted[1:]} == {
        label: f"{count} ({count / len(labels):.1%})" for label, count in Counter(labels).items()
    }


def test_the_scores_of_a_single_type_are_those_of_all_entities(
    finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finetuned("tagging") / "run", tmp_path / "run"))
    results = json.loads((folder / "eval_results.json").read_text("utf-8"))
    scores = results["types"]["THING"]
    names = ("precision", "recall", "f1")
    assert {name: scores[name] for name in names} == {
        name: pytest.approx(results[name]) for name in names
    }
    head, row = table(page(folder), "type")
    assert [head[-1], row[-1]] == ["examples", str(scores["examples"])]


def _body(root: Element, first: str) -> list[Element]:
    table = next(t for t in root.iter("table") if text_of(next(t.iter("th"))) == first)
    return list(table.iter("tr"))[1:]


def test_lengths_are_those_before_anything_is_cut(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Four of 16 texts are longer than a row of 16 tokens, one of them by far."""
    counts = [3] * 12 + [15, 20, 30, 400]
    rows = [f"{' '.join(['milk'] * n)},{'ab'[n % 2]}" for n in counts]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    task = open_task("classification")
    examples = task.read(str(tmp_path / "a.csv"), Columns(), labeled=True)
    found = facts(task, examples, task.features(examples, tokenizer, 16, ["a", "b"]), 16)
    tokens = found["tokens"]
    assert found["examples"] == found["rows"] == 16
    assert tokens["median"] == 5
    assert tokens["longest"] == 402
    assert tokens["longer"] == 4 / 16
    assert tokens["edges"][-1] == 34, "two rows, in bins of two tokens"
    assert sum(tokens["counts"]) == 16
    assert tokens["counts"][-1] == 2, "32 and all that are longer"
    assert found["labels"] == {"b": 13, "a": 3}


@pytest.mark.parametrize(
    ("task", "content", "whole", "rows"),
    [
        ("tagging", "\n".join(f"milk {tag}" for tag in ("O", "B-X") * 15) + "\n", [32], 5),
        ("summarization", {"document": ["the man"] * 9, "summary": "the man"}, [36], 3),
        ("multiple-choice", {"text": "the", "choices": ["man", "in a"], "label": 0}, [5, 6], 1),
        ("qa", [("the", "milk " * 40)], [44], 4),
    ],
)
def test_every_task_reports_its_lengths(
    task: str, content: Any, whole: list[int], rows: int, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = tmp_path / f"a.{FILES[task].suffix}"
    if task == "qa":
        asked = [
            {
                "context": context,
                "qas": [
                    {
                        "id": "0",
                        "question": question,
                        "answers": [{"text": "milk", "answer_start": 0}],
                    }
                ],
            }
            for question, context in content
        ]
        path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": asked}]}), "utf-8")
    elif isinstance(content, dict):
        write_json_lines(path, [content])
    else:
        path.write_text(content, "utf-8")
    reader = open_task(task)
    examples = reader.read(str(path), Columns(), labeled=True)
    features = reader.features(examples, tokenizer, 16, reader.classes(examples))
    assert features.lengths.tolist() == whole
    assert len(features.examples) == rows


def test_types_of_entities_are_scored_one_by_one() -> None:
    gold = [["B-A", "I-A", "O", "B-B"], ["B-A", "O", "O", "B-C"]]
    found = [["B-A", "I-A", "O", "B-A"], ["B-A", "O", "B-B", "O"]]
    scored = entity_f1.by_type(gold, found, of_entities=True)
    assert scored["A"] == {"precision": 2 / 3, "recall": 1.0, "f1": pytest.approx(0.8)} | {
        "examples": 2
    }
    assert scored["B"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "examples": 1}
    assert scored["C"]["examples"] == 1
    plain = entity_f1.by_type([["N", "V", "N"]], [["N", "N", "N"]], of_entities=False)
    assert plain["N"]["precision"] == pytest.approx(2 / 3)
    assert plain["V"]["recall"] == 0


def test_the_part_of_a_passage_around_its_answer() -> None:
    text = "x" * 1000 + " milk " + "y" * 1000
    part = around(text, [(1001, 1005)])
    assert "milk" in part
    assert part.startswith("… x")
    assert part.endswith("y …")
    assert len(part) <= 300
    assert around(text, [(1001, 1005), (0, 3)]).count("milk") == 1, "the first, if both are too far"
    assert around("milk", [(0, 4)]) == around("milk", []) == "milk"


def test_hostile_and_endless_texts(tmp_path: Path) -> None:
    """They are shown as text, and what is written down stays small."""
    folder = tmp_path / "run"
    words = options("classification", tmp_path, folder, train__epochs=1)
    for name in ("train", "validation"):
        rows = (tmp_path / f"{name}.csv").read_text("utf-8").splitlines()[1:]
        parts = [row.split(",") for row in rows]
        given = [
            {"id": f"{n}{EVIL}", "text": f"{text} {EVIL} {'milk ' * 50_000 * (n == 1)}"}
            | {"label": label if label == "dry" else f"{EVIL}{'d' * 5000}"}
            for n, (text, label) in enumerate(parts)
        ]
        write_json_lines(tmp_path / f"{name}.jsonl", given)
    words = [word.replace(".csv", ".jsonl") for word in words]
    run(words)
    assert (folder / "validation_samples.jsonl").stat().st_size < 40_000
    assert (folder / "data.json").stat().st_size < 40_000
    root = page(folder)
    rows = looked_at(root)
    assert rows[0]["id"] == f"0{EVIL}"
    assert EVIL in rows[0]["text"]
    assert rows[1]["text"].endswith(" …")
    assert rows[1]["true"].startswith(EVIL)
    assert (folder / "report.html").stat().st_size < 500_000
    # Another file of examples is refused; what is known of the first one stays.
    known = (folder / "data.json").read_bytes()
    write_json_lines(tmp_path / "train.jsonl", [{"text": "the", "label": c} for c in "ab" * 40])
    refused(invoke(*words), 78)
    assert (folder / "data.json").read_bytes() == known
    _check_damaged(folder)


def _check_damaged(folder: Path) -> None:
    """Whatever the files hold, there is a page."""
    known = json.loads((folder / "data.json").read_text("utf-8"))
    tokens = known["train"]["tokens"]
    for key, value in (
        ("median", float("nan")),
        ("edges", [1.0]),
        ("edges", ["x"] * len(tokens["edges"])),
        ("counts", [-1] * len(tokens["counts"])),
        ("counts", [[1]]),
        ("longest", 10**400),
    ):
        broken = {**known, "train": {**known["train"], "tokens": {**tokens, key: value}}}
        (folder / "data.json").write_text(json.dumps(broken), "utf-8")
        assert "Trained on" in text_of(page(folder)), key
    odd = [[], {"given": 3, "right": "x", "probability": True, "id": {"a": EVIL}}, {"given": {}}]
    content = "".join(json.dumps(one) + "\n" for one in odd) + '{"id": '
    (folder / "validation_samples.jsonl").write_text(content, "utf-8")
    (folder / "eval_results.json").write_text('{"types": {"A": {"f1": NaN}, "B": 3}}', "utf-8")
    for text in ("", "[]", '{"train": 3, "length": 1}', '{"length": {}}', "[" * 100_000):
        (folder / "data.json").write_text(text, "utf-8")
        assert "Trained on" in text_of(page(folder))
