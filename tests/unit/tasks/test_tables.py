"""Rows of tables and data sets as examples, and how bad ones are named."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import open_builder, read_split
from pipelines.tasks.tables.examples import SINGLES, Example, examples_of
from pipelines.tasks.tables.read import read
from pipelines.tasks.tables.table import Table
from pipelines.tasks.task import Columns


def read_examples(
    file: Path, columns: Columns | None = None, labeled: bool = True
) -> list[Example]:
    return examples_of(read(str(file)), columns or Columns(), labeled)


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, "utf-8", newline="")
    return file


def test_csv_json_and_tsv_give_the_same_examples(tmp_path: Path) -> None:
    rows = [("A man,\nin the store", "yes"), ('The "milk"', "no"), ("", "no")]
    quoted = [f'"{text}",{label}'.replace('"milk"', '""milk""') for text, label in rows]
    csv_file = write(tmp_path, "a.csv", "\ufefftext,label\r\n" + "\r\n\r\n".join(quoted) + "\r\n")
    lines = [json.dumps({"label": label, "text": text}) for text, label in rows]
    json_file = write(tmp_path, "a.JSONL", "\n\n".join(lines))
    for file in (csv_file, json_file):
        assert [(e.id, e.text, e.pair, e.label) for e in read_examples(file)] == [
            (str(number), text, "", label) for number, (text, label) in enumerate(rows)
        ]
    assert read_examples(csv_file)[1].where == f"{csv_file}, line 5"
    assert read_examples(json_file)[1].where == f"{json_file}, line 3"
    tsv_file = write(tmp_path, "a.tsv", 'label\tsentence\nno\t"milk\nyes\ta, "man"\n')
    assert [(e.text, e.label) for e in read_examples(tsv_file)] == [
        ('"milk', "no"),
        ('a, "man"', "yes"),
    ]


def test_columns_are_found_by_their_usual_names_or_named(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "id,sentence,question,label,other\n7,s,q,x,o\n")
    assert read_examples(file) == [Example("7", "q", "s", "x", f"{file}, line 2")]
    single = read_examples(file, Columns(text="sentence", label="other", id="other"))
    assert single == [Example("o", "s", "", "o", f"{file}, line 2")]
    assert read_examples(file, Columns(pair="other"))[0].text == "s"
    with pytest.raises(BadInputError, match="no column 'txt'; its columns are id, sentence, quest"):
        read_examples(file, Columns(text="txt"))
    bare = write(tmp_path, "b.csv", "comment,stars\nfine,3\n")
    with pytest.raises(
        BadInputError, match=r"text, sentence, .*columns are comment, stars; .*text"
    ):
        read_examples(bare)
    with pytest.raises(BadInputError, match="called label, "):
        read_examples(bare, Columns(text="comment"))


def test_labels_are_ignored_if_not_requested(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "text,label\nfine,\n")
    assert read_examples(file, labeled=False)[0].label == ""
    with pytest.raises(BadInputError, match="line 2: 'label' is empty"):
        read_examples(file)
    numbers = write(tmp_path, "a.jsonl", '{"text":"a","label":1}\n{"text":"b","label":true}')
    assert [e.label for e in read_examples(numbers)] == ["1", "true"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "text,label\na,x\nb,y,z\n",
            "line 3 has 3 columns, but the header has 2 .text, label.;",
        ),
        ("a.tsv", "text\tlabel\na\n", "line 2 has 1 columns, but the header has 2 .*bad_rows"),
        ("a.csv", 'text,label\na,x\n"b" c,y\n', "line 3: .*quotes"),
        ("a.csv", 'text,label\na,x\n"b,y\n', "line 3: unexpected end of data"),
        ("a.csv", "text,text\na,b\n", "line 1: two columns are called 'text'"),
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "text,label\n", "a.csv has no rows"),
        ("a.jsonl", '{"text":"a","label":"x"}\n["b"]\n', "line 2 must be a JSON object"),
        ("a.jsonl", '{"text":"a","label":"x"}\n{"label":"x"}\n', "line 2: 'text' is missing"),
        ("a.jsonl", '{"text":["a"],"label":"x"}', r"line 1: 'text' is not text but \[\"a\"\]"),
        ("a.jsonl", '{"text":"a","label":{}}', r"line 1: 'label' is not text but \{\}"),
        (
            "a.jsonl",
            '{"text":"\\ud800","label":"x"}',
            "line 1: 'text' contains an unpaired surrogate",
        ),
        ("a.json", "[]", "a.json has no rows"),
        ("a.jsonl", '{"text":"a","label":NaN}', "line 1: 'label' is missing"),
        ("a.xlsx", "", "unknown file type '.xlsx'; use .*csv, .tsv"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        read_examples(write(tmp_path, name, text))
    assert "\n" not in str(caught.value)


def test_another_encoding_is_named_with_its_remedy(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("text,label\na,x\ncafé,y\n".encode("latin-1"))
    with pytest.raises(BadInputError, match=r"line 3 is not UTF-8: byte 0xe9; .*iconv -f latin1"):
        read_examples(file)
    file.write_bytes("text,label\na,x\n".encode("utf-16"))
    with pytest.raises(BadInputError, match="iconv -f utf-16"):
        read_examples(file)
    with pytest.raises(BadInputError, match="No such file"):
        read(str(tmp_path / "none.csv"))


def test_ids_occur_once(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", "text,label,key\na,x,1\nb,y,2\nc,x,1\n")
    with pytest.raises(BadInputError, match=r"line 4 has the same id '1' as .*line 2;"):
        read_examples(file, Columns(id="key"))
    assert [e.id for e in read_examples(file)] == ["0", "1", "2"]
    with pytest.raises(BadInputError, match="no column 'mood'"):
        read_examples(file, Columns(id="mood"))
    for ids in ("7,7,8", "7,,8"):  # of authors, not of rows
        values = ids.split(",")
        rows = "".join(f"a,x,{value}\n" for value in values)
        file = write(tmp_path, "b.csv", f"text,label,id\n{rows}")
        assert [e.id for e in read_examples(file)] == ["0", "1", "2"]


def test_empty_texts_are_counted_and_long_ones_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "word " * 100_000
    file = write(tmp_path, "a.csv", f"text,label\n{long},x\n ,x\n,y\n")
    assert read_examples(file)[0].text == long
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 2
    assert "2 of 3 rows have an empty text (first: line 3)" in stderr


BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        classes = tfds.features.ClassLabel(names=["not_same", "same"])
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({
                "sentence1": tfds.features.Text(),
                "sentence2": tfds.features.Text(),
                "label": classes,
                "tags": tfds.features.Sequence(classes),
                "answers": tfds.features.Sequence(
                    {"text": tfds.features.Text(), "start": tfds.features.Scalar(np.int32)}
                ),
            }),
        )

    def _split_generators(self, dl_manager):
        sizes = {"train": 600, "test": 3}
        return {name: self._generate_examples(name, size) for name, size in sizes.items()}

    def _generate_examples(self, name, count):
        for number in range(count):
            yield number, {
                "sentence1": f"é {number}", "sentence2": "b",
                "label": number % 2 if name == "train" else -1,
                "tags": [1, 0],
                "answers": [{"text": "é", "start": 0}, {"text": "b", "start": number}],
            }
"""


@pytest.fixture
def pairs_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set `alike`, prepared without TensorFlow."""
    package = tmp_path / "code" / "alike"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "alike_dataset_builder.py").write_text(BUILDER, "utf-8")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from alike.alike_dataset_builder import Builder;"
        "Builder(data_dir=sys.argv[2]).download_and_prepare(file_format='array_record')"
    )
    data = tmp_path / "data"
    command = [sys.executable, "-c", script, str(tmp_path / "code"), str(data)]
    subprocess.run(command, check=True, capture_output=True)
    open_builder.cache_clear()
    stored = partial(tfds.builder_from_directory, data / "alike" / "1.0.0")
    monkeypatch.setattr(tfds, "builder", lambda name: stored())


@pytest.mark.usefixtures("pairs_data_set")
def test_data_sets_give_their_classes_by_name_and_in_their_order() -> None:
    table = read("tfds:alike:train")
    train = examples_of(table, Columns(), labeled=True)
    assert len(train) == 600
    order = sorted(int(e.text.removeprefix("é ")) for e in train)
    assert order == list(range(600))
    for example in train:
        number = int(example.text.removeprefix("é "))
        assert (example.pair, example.label) == ("b", ("not_same", "same")[number % 2])
        assert example.rank == number % 2
    assert table.rows[0]["tags"] == ["same", "not_same"]
    assert table.rows[0]["answers"]["text"] == ["é", "b"]
    assert len(read("tfds:alike:train[:10%]").rows) == 60
    with pytest.raises(BadInputError, match="example 0: 'label' is missing"):
        examples_of(read("tfds:alike:test"), Columns(), labeled=True)
    assert len(examples_of(read("tfds:alike:test"), Columns(), labeled=False)) == 3
    with pytest.raises(BadInputError, match=r"alike.* has no split 'dev'"):
        read_split("tfds:alike:dev")
    with pytest.raises(BadInputError, match=re.escape("names no split; write it as in tfds:")):
        read("tfds:alike")


HEADERS = [
    "question,answer", "question,passage", "query,document", "sentence,sentence2", "title,text",
    "premise,claim", "text,context",
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_half_of_a_pair_is_not_read_alone(header: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"{header},label\nis it good,it is good,x\nis it new,a red river,y\n", "utf-8")
    first, second = header.split(",")
    with pytest.raises(BadInputError, match=r"columns\.pair"):
        examples_of(read(str(file)), Columns(), labeled=True)
    text = second if first not in SINGLES else ""
    single = examples_of(read(str(file)), Columns(text=text, pair="none"), labeled=True)
    assert [example.pair for example in single] == ["", ""]
    other = first if text else second
    pairs = examples_of(read(str(file)), Columns(text=text, pair=other), labeled=True)
    assert all(example.text and example.pair for example in pairs)


def table(other: Sequence[object], text: str = "text") -> Table:
    rows = [{text: "the man", "other": value, "label": "x"} for value in other]
    locations = [f"line {number}" for number in range(len(rows))]
    return Table("a.jsonl", [text, "other", "label"], rows, locations, {})


@pytest.mark.parametrize(
    "values",
    [
        ["a new boat", "a red river", "a new boat"],
        ["where is the cat"] * 9 + ["where is the dog"] * 9,  # a query with many passages
        ["一只猫", "二只红狗", "河"],
        ["แมวตัวหนึ่ง", "แม่น้ำสีแดง"],
        [None, "", "a man", "a store"],  # some rows have no second text
        ["a man", "store", "a store"],
        [None, "a man", None, None, "a store", None],
        ["no evidence"] * 9 + ["a red boat", "an old boat", "a man"],
        [["a red river", "in the store"], ["an old man"], []],
        [{"text": "a red river"}, {"text": "in the store"}],
    ],
)
def test_a_column_of_text_is_asked_about(values: list[object]) -> None:
    with pytest.raises(BadInputError, match=r"'other'.*columns\.pair"):
        examples_of(table(values), Columns(), labeled=True)
    assert table(values, "claim").has_text("other")


@pytest.mark.parametrize(
    "values",
    [
        ["fiction", "news", "travel"],
        ["Science and Tech", "World News"] * 9,
        ["2026-11-30 10:00:00", "2026-12-01 11:30 PM"],
        ["Mon Apr 06 22:19:45 PDT 2009", "Tue Apr 07 10:00:01 PDT 2009"],
        [["a", "man"], ["a", "store"]],
        ["https://example.org/a", "https://example.org/b"],
        ["3f2a-9b1c-dd", "77aa-be01-ff"],
        [1, 2, 3],
        [0.5, None, 2.0],
        ["the same text", "the same text"],
        [None, None],
    ],
)
def test_a_column_of_other_things_is_ignored(values: list[object]) -> None:
    assert all(not e.pair for e in examples_of(table(values), Columns(), labeled=True))


@pytest.mark.parametrize("name", ["answer", "document", "sentence_2", "text2", "context"])
def test_a_second_text_may_be_a_word_or_repeat(name: str) -> None:
    for values in (["Paris", "London"], ["the same long passage of text"] * 2):
        rows = [{"text": "the man", name: value, "label": "x"} for value in values]
        new = Table("a.jsonl", ["text", name, "label"], rows, ["line 1", "line 2"], {})
        with pytest.raises(BadInputError, match=rf"'{name}'.*columns\.pair"):
            examples_of(new, Columns(), labeled=True)
        labels = examples_of(new, Columns(label=name), labeled=True)
        assert [example.label for example in labels] == values


def test_a_label_of_several_words_is_not_a_text_when_predicting() -> None:
    rows = [{"text": "a man", "label": "very good"}, {"text": "a store", "label": "not so good"}]
    new = Table("a.jsonl", ["text", "label"], rows, ["line 1", "line 2"], {})
    assert len(examples_of(new, Columns(), labeled=False)) == 2


def test_usual_names_are_found_in_any_case(tmp_path: Path) -> None:
    file = write(tmp_path, "a.tsv", "Quality\t#1 ID\t#1 String\t#2 String\n1\t7\ta man\ta store\n")
    (example,) = read_examples(file)
    assert (example.text, example.pair, example.label) == ("a man", "a store", "1")
    file = write(tmp_path, "b.csv", "Text,Label\na man,x\n")
    assert [(e.text, e.label) for e in read_examples(file)] == [("a man", "x")]


def test_the_columns_that_are_read_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,text_pair,genre,label\na b,c d,fiction,x\ne f,g h,news,y\n", "utf-8")
    assert examples_of(read(str(file)), Columns(), labeled=True)[0].pair == "c d"
    report = capsys.readouterr().err
    for column in ("text 'text'", "pair 'text_pair'", "label 'label'", "ignored: genre"):
        assert column in report
