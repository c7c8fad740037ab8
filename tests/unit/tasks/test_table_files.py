"""Labeled data in the files and folders in which it is distributed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.classification import Classification
from pipelines.tasks.regression import Regression
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.tables.examples import Example
from pipelines.tasks.tables.read import read
from pipelines.tasks.task import Columns
from support.labeled_files import GLUE, ROWS, save_to_disk, write_lines, write_parquet

GLUE_DATA = Path(__file__).parents[3] / "../shared/data/formats/finetune/glue"
TASKS = {"STS-B": Regression}


def examples(source: Path | str, labeled: bool = True) -> list[Example]:
    return Classification().read(str(source), Columns(), labeled)


def summary(source: Path | str) -> list[tuple[str, str]]:
    return [(example.text, example.label) for example in examples(source)]


@pytest.mark.parametrize("name", GLUE)
def test_every_task_of_glue_is_read_without_options(name: str, tmp_path: Path) -> None:
    task = TASKS.get(name, Classification)()
    (train, lines), (test, test_lines) = GLUE[name].items()
    read_examples = task.read(str(write_lines(tmp_path / train, lines)), Columns(), True)
    whole = [line for line in lines if len(line) == len(lines[0])][name != "CoLA" :]
    texts = [field for line in whole for field in line if field in (e.text for e in read_examples)]
    assert len(read_examples) == len(whole) == 2
    assert [e.text for e in read_examples] == texts
    label = 1 if name == "CoLA" else 0 if name == "MRPC" else -1
    assert [e.label for e in read_examples] == [line[label] for line in whole]
    assert all(bool(e.pair) == (name not in ("CoLA", "SST-2")) for e in read_examples)
    [unlabeled] = task.read(str(write_lines(tmp_path / test, test_lines)), Columns(), False)
    assert unlabeled.text in test_lines[1]
    assert unlabeled.pair in ("", test_lines[1][-1])


@pytest.mark.parametrize("name", GLUE)
def test_the_files_of_glue_are_read_without_options(name: str) -> None:
    if not GLUE_DATA.is_dir():
        pytest.skip("../shared/data/formats is not here")
    task = TASKS.get(name, Classification)()
    for file in sorted((GLUE_DATA / name).iterdir()):
        labeled = not file.name.startswith("test")
        rows = task.read(str(file), Columns(), labeled)
        expected = 40 if not labeled else 60 if file.name.startswith("dev") else 240
        assert len(rows) == expected
        assert all(bool(row.label) == labeled for row in rows)
        assert all(bool(row.pair) == (name not in ("CoLA", "SST-2")) for row in rows)


def test_the_broken_lines_of_qqp_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples(write_lines(tmp_path / "train.tsv", GLUE["QQP"]["train.tsv"]))
    assert "2 rows skipped: " in (report := capsys.readouterr().err)
    assert "(lines 3, 4)" in report


def test_files_of_the_hub_have_named_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file, a folder of the shards of two splits, a pattern, and saved data sets."""
    for split, number in (("train", 0), ("train", 1), ("validation", 0)):
        write_parquet(tmp_path / f"{split}-0000{number}-of-00002.parquet", ROWS)
    saved = save_to_disk(tmp_path / "saved", {"train": ROWS, "validation": ROWS[1:]})
    named = [("bad", "neg"), ("good", "pos")]
    assert summary(tmp_path / "train-00000-of-00002.parquet") == named
    assert "1 row skipped: no label in 'label' (row 3)" in capsys.readouterr().err
    assert summary(f"{tmp_path}:train") == summary(f"{tmp_path}/train-*.parquet") == named * 2
    assert summary(f"{tmp_path}:validation") == named
    assert summary(f"{saved}:train") == summary(f"arrow:{saved}:train") == named
    assert summary(saved / "validation") == named[1:]
    alone = summary(saved / "train" / "data-00000-of-00001.arrow")
    assert alone == [("bad", "0"), ("good", "1"), ("hidden", "-1")]
    table = read(f"{saved}:train")
    assert table.class_names["label"] == ["neg", "pos"]
    assert [row["tags"] for row in table.rows] == [["O", "B-X"], ["O"], []]
    assert [example.rank for example in examples(f"{saved}:train")] == [0, 1]
    assert len(examples(f"{saved}:train", labeled=False)) == 3


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("{folder}", "splits test, train"),
        ("{folder}:dev", "no split 'dev'"),
        ("{folder}/saved", "splits train, validation"),
        ("{folder}/saved:dev", "no split 'dev'"),
        ("{folder}/empty", "no labeled data"),
        ("{folder}/aclImdb", "choose a folder in it: test, train"),
        ("{folder}/none.csv", "No such file"),
        ("{folder}/a*.csv", "No such file"),
        ("{folder}/*-*.*", "other formats"),
        ("{folder}/wrong.parquet", "is a JSON array"),
        ("{folder}/wrong.csv", "rename it to end with .parquet"),
        ("{folder}/page.csv", "HTML"),
        ("{folder}/hidden.parquet", "row 1: 'label' is missing"),
    ],
)
def test_a_wrong_place_is_named(tmp_path: Path, source: str, part: str) -> None:
    write_parquet(tmp_path / "train-0.parquet", ROWS)
    write_parquet(tmp_path / "test-0.parquet", ROWS)
    (tmp_path / "other-0.csv").write_text("text,label\n")
    save_to_disk(tmp_path / "saved", {"train": ROWS, "validation": ROWS})
    (tmp_path / "empty").mkdir()
    for split in ("train", "test"):
        (tmp_path / "aclImdb" / split / "pos").mkdir(parents=True)
        (tmp_path / "aclImdb" / split / "pos" / "0_9.txt").write_text("good")
    if "wrong.p" in source:
        (tmp_path / "wrong.parquet").write_text('[{"text": "a"}]')
    (tmp_path / "wrong.csv").write_bytes((tmp_path / "train-0.parquet").read_bytes())
    (tmp_path / "page.csv").write_text("<!DOCTYPE html>\n<html>")
    if "hidden" in source:
        write_parquet(tmp_path / "hidden.parquet", ROWS[2:])
    with pytest.raises(BadInputError, match=part):
        examples(source.format(folder=tmp_path))


ROW = {"text": "é", "label": 1}
FORMS = {
    "an array": [ROW],
    "data": {"data": [ROW]},
    "rows of the server of the hub": {
        "features": [{"name": "text", "type": {"_type": "Value"}}],
        "rows": [{"row_idx": 0, "row": ROW, "truncated_cells": []}],
    },
    "pandas, split": {"columns": ["text", "label"], "index": [0], "data": [["é", 1]]},
}


@pytest.mark.parametrize("form", FORMS)
def test_json_is_read_in_every_form_with_rows(form: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(FORMS[form], indent=1), "utf-8-sig")
    assert summary(file) == [("é", "1")]
    assert examples(file)[0].where == f"{file}, row 1"


def test_json_lines_and_arrays_are_told_apart_by_their_content(tmp_path: Path) -> None:
    lines, array = tmp_path / "a.json", tmp_path / "a.jsonl"
    lines.write_text(f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n", "utf-8")
    array.write_text(json.dumps([ROW, ROW]), "utf-8")
    assert summary(lines) == summary(array) == [("é", "1")] * 2
    assert examples(lines)[1].where == f"{lines}, line 2"
    for content in ('{"text": {"0": "a"}}', "3", '{"data": {"text": "a"}}'):
        lines.write_text(content)
        with pytest.raises(BadInputError, match=r"no list of rows.*orient"):
            read(str(lines))


def test_classes_of_the_server_of_the_hub_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    label = {"name": "label", "type": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    rows = [{"row": {"text": "a", "label": label_id}} for label_id in (0, 1, -1)]
    file.write_text(json.dumps({"features": [label], "rows": rows}))
    assert summary(file) == [("a", "neg"), ("a", "pos")]
    rows[0]["row"]["label"] = 2
    file.write_text(json.dumps({"features": [label], "rows": rows}))
    with pytest.raises(BadInputError, match="row 1: 'label' is 2"):
        examples(file)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_compressed_text_is_read(suffix: str, tmp_path: Path) -> None:
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[suffix]
    contents = {
        "csv": "text,label\né,1\n",
        "tsv": "text\tlabel\né\t1\n",
        "jsonl": json.dumps(ROW),
        "json": json.dumps([ROW]),
    }
    for kind, text in contents.items():
        file = tmp_path / f"a.{kind}.{suffix}"
        file.write_bytes(compress(text.encode()))
        assert summary(file) == [("é", "1")]
        file.write_bytes(compress(text.encode())[:-5])
        with pytest.raises(BadInputError, match="is damaged"):
            examples(file)


def test_a_folder_for_each_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {
        "pos/10_8.txt": "ten ",
        "pos/9_7.txt": "nine\n",
        "neg/0_2.txt": "none",
        "unsup/0_0.txt": "?",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "urls_pos.txt").write_text("http://…")
    (tmp_path / "pos" / "notes.feat").write_text("1:2")
    rows = examples(tmp_path)
    assert [(row.id, row.text, row.label) for row in rows] == [
        ("neg/0_2.txt", "none", "neg"),
        ("pos/9_7.txt", "nine", "pos"),
        ("pos/10_8.txt", "ten", "pos"),
    ]
    assert "1 texts in unsup are ignored" in capsys.readouterr().err
    assert examples(f"{tmp_path.parent}:{tmp_path.name}") == rows
    assert [row.text for row in examples(tmp_path / "unsup", labeled=False)] == ["?"]
    (tmp_path / "neg" / "1_1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInputError, match=r"neg/1_1\.txt, line 1 is not UTF-8"):
        examples(tmp_path)


def test_splits_are_folders_or_parts_of_names(tmp_path: Path) -> None:
    """Also as in the branch refs/convert/parquet of the hub: CONFIG/SPLIT/0000.parquet."""
    for split in ("train", "test"):
        (tmp_path / "config" / split).mkdir(parents=True)
        (tmp_path / "texts" / split).mkdir(parents=True)
        write_parquet(tmp_path / "config" / split / "0000.parquet", ROWS)
        (tmp_path / "texts" / split / "0.txt").write_text("unlabeled")
    named = [("bad", "neg"), ("good", "pos")]
    assert summary(f"{tmp_path}/config:train") == summary(f"{tmp_path}/config/train") == named
    for source in ("config", "texts"):
        with pytest.raises(BadInputError, match="choose a folder in it: test, train"):
            examples(tmp_path / source)
    with pytest.raises(BadInputError, match="config:dev contains no labeled data"):
        examples(f"{tmp_path}/config:dev")
    assert examples(f"{tmp_path}/texts:test", labeled=False)[0].text == "unlabeled"


def test_several_files_are_one_table(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"train-{number}.csv").write_text(f"text,label\n{number},x\n")
    both = [("1", "x"), ("2", "x")]
    assert summary(tmp_path) == summary(f"{tmp_path}:train") == summary(f"{tmp_path}/*.csv") == both
    (tmp_path / "train-3.csv").write_text("text,class\na,x\n")
    with pytest.raises(BadInputError, match=r"train-3\.csv has the columns text, class"):
        examples(tmp_path)


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (["-", "neutral", "entailment"], [1, 2]),  # SNLI
        (["-", "+", "-"], [0, 1, 2]),
        ([-1, 0, 1], [0, 1, 2]),  # sentiment
        ([-1, 0, 2, 1], [1, 2, 3]),  # SNLI of the hub
        (["-1", "0", "2", "1"], [1, 2, 3]),
        ([-2, -1, 0, 1, 2], [0, 1, 2, 3, 4]),
        ([-1, 1], [0, 1]),
        ([-1, 5, 7, 9], [0, 1, 2, 3]),
    ],
)
def test_rows_without_a_label_are_skipped_and_counted(
    labels: list[object], kept: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"text": str(number), "label": label} for number, label in enumerate(labels)]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert [row.text for row in examples(file)] == list(map(str, kept))
    assert [row.id for row in examples(file)] == list(map(str, kept))
    assert ("no label in 'label' (line 1)" in capsys.readouterr().err) == (len(kept) < len(labels))
    assert len(examples(file, labeled=False)) == len(labels)


def test_bad_rows_are_skipped_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Classification(bad_rows=BadRows(skip=True, most=0.5))
    file = tmp_path / "a.jsonl"
    good = json.dumps(ROW)
    file.write_text(f'{good}\n{{"text": \n[1]\n{good}\n{{"text": "x", "label": null}}\n', "utf-8")
    # The ids are those of the file, so that predictions can be assigned to its rows.
    assert [row.id for row in task.read(str(file), Columns(), labeled=True)] == ["0", "3"]
    report = capsys.readouterr().err
    assert "2 rows skipped: not readable (lines 2, 3)" in report
    assert "1 row skipped: no label in 'label' (line 5)" in report
    with pytest.raises(BadInputError, match=r"2 of 5 rows .*max_bad 0\.1"):
        Classification(bad_rows=BadRows(skip=True)).read(str(file), Columns(), labeled=True)
    with pytest.raises(BadInputError, match="line 2"):
        examples(file)


def test_few_empty_labels_are_skipped_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, jsonl = tmp_path / "a.csv", tmp_path / "a.jsonl"
    rows = [f"{number},{'' if number % 3 == 2 else 'good'}" for number in range(24)]
    file.write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    missing = [{"text": "x", "label": None if number % 3 == 0 else "a"} for number in range(24)]
    jsonl.write_text("\n".join(map(json.dumps, missing)), "utf-8")
    for path, first in ((file, "line 4"), (jsonl, "line 1")):
        with pytest.raises(BadInputError, match=rf"{first}: .*data\.bad_rows skip .*--bad-rows"):
            examples(path)
        with pytest.raises(BadInputError, match=r"8 of 24 rows .*'label'.*max_bad 0\.1"):
            Classification(bad_rows=BadRows(skip=True)).read(str(path), Columns(), labeled=True)
        task = Classification(bad_rows=BadRows(skip=True, most=0.4))
        assert len(task.read(str(path), Columns(), labeled=True)) == 16
        assert "8 rows skipped: no label in 'label'" in capsys.readouterr().err
    # Rows that are known to have no label do not count.
    labels = ["-", "entailment", "-", "neutral", "-", *["neutral"] * 6, ""]
    known = [{"text": "x", "label": label} for label in labels]
    jsonl.write_text("\n".join(map(json.dumps, known)), "utf-8")
    task = Classification(bad_rows=BadRows(skip=True))
    assert len(task.read(str(jsonl), Columns(), labeled=True)) == 8
    report = capsys.readouterr().err
    assert "3 rows skipped: no label in 'label' (lines 1, 3, 5)" in report
    assert "1 row skipped: no label in 'label' (line 12)" in report
