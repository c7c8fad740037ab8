"""Questions as they are read from files and data sets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.qa.read import Question
from pipelines.tasks.qa.task import QuestionAnswering
from pipelines.tasks.task import Columns
from support.commands import ROOT, environment

LETTERS = "a b c d e f g h i j"


def write(path: Path, qas: list[dict[str, Any]], context: str = LETTERS, **more: Any) -> str:
    file = path / "questions.json"
    file.write_text(
        json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]} | more)
    )
    return str(file)


def qa_entry(name: str, text: str, start: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": "k", "answers": [{"text": text, "answer_start": start}]} | more


def test_answers_at_other_offsets_are_located_or_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qas = [
        qa_entry("right", "b", 2),
        qa_entry("moved", "b", 11),
        qa_entry("white", " c\n", 3),
        qa_entry("lost", "z", 4),
        qa_entry("empty", "", 4),
        qa_entry("negative", "d", -4),
    ]
    examples = QuestionAnswering().read(write(tmp_path, qas, "a b c d b"), Columns(), True)
    spans = {example.id: example.span for example in examples}
    assert spans == {
        "right": (2, 3),
        "moved": (8, 9),
        "white": (4, 5),
        "lost": None,
        "empty": None,
        "negative": (6, 7),
    }
    stderr = capsys.readouterr().err
    assert (
        "2 answers are not at their answer_start; the nearest match is used (first: 'moved')"
        in stderr
    )
    assert "2 questions have an answer that is not in the context" in stderr
    assert stderr.count("\n") == 2


def test_version_2_and_unlabeled_files_are_read(tmp_path: Path) -> None:
    none = {"id": "n", "question": "k", "answers": [], "is_impossible": True}
    plausible = qa_entry("p", "b", 2, is_impossible=True)
    examples = QuestionAnswering().read(
        write(tmp_path, [none, plausible, qa_entry("y", "b", 2)]), Columns(), True
    )
    assert [example.impossible for example in examples] == [True, True, False]
    assert [example.span for example in examples] == [None, None, (2, 3)]
    bare = write(tmp_path, [{"id": "n", "question": "k"}])
    assert QuestionAnswering().read(bare, Columns(), False) == [Question("n", "k", LETTERS)]


@pytest.mark.parametrize(
    ("qas", "words"),
    [
        ([{"id": "a", "answers": []}], r"qas\[0\] has no 'question'; .*'id', 'answers'"),
        (
            [qa_entry("a", "b", 2), qa_entry("a", "c", 4)],
            r"qas\[1\] has the same id 'a' as .*qas\[0\]",
        ),
        ([{"id": "a", "question": "k"}], r"data\[0\]\.paragraphs\[0\]\.qas\[0\] has no 'answers'"),
        ([{"id": "a", "question": "k", "answers": []}], r"qas\[0\] has no answers; add one"),
        (
            [qa_entry("a", "b", 2) | {"answers": [{"text": "b"}]}],
            r"answers\[0\] has no 'answer_start'",
        ),
        ([qa_entry("a", "b", 2) | {"id": 7.5}], "'id' must be a str, not 7.5"),
        ([qa_entry("a", "b", 2) | {"id": True}], "'id' must be a str, not True"),
        ([qa_entry("7", "b", 2), qa_entry("a", "b", 2) | {"id": 7}], "same id '7'"),
        (
            [qa_entry("a", "b", 2) | {"question": "\ud800"}],
            "'question' contains an unpaired surrogate",
        ),
        (["x"], r"qas\[0\] must be an object"),
        ([], "has no questions"),
    ],
)
def test_an_error_in_a_file_is_located(tmp_path: Path, qas: list[Any], words: str) -> None:
    with pytest.raises(BadInputError, match=f"questions.json.*{words}"):
        QuestionAnswering().read(write(tmp_path, qas), Columns(), True)


def test_unknown_sources_are_reported(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"data": [}')
    for source, columns, words in [
        (f"{tmp_path}/missing.json", Columns(), "No such file"),
        (f"{tmp_path}/broken.json", Columns(), "broken.json, line 1, column 11: not JSON"),
        (write(tmp_path, []), Columns(text="body"), "remove the column names"),
        ("tfds:squad", Columns(), "names no split"),
    ]:
        with pytest.raises(BadInputError, match=words):
            QuestionAnswering().read(source, columns, True)


BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({
            "id": text, "context": text, "question": text,
            "answers": tfds.features.Sequence({"text": text, "answer_start": np.int32}),
        }))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for n in range(3):
            yield n, {"id": f"q{n}", "context": "caf\\u00e9 b c", "question": "k",
                      "answers": {"text": ["b"] * n, "answer_start": [5] * n}}
"""
MAKER = """
import sys
sys.path.insert(0, sys.argv[1])
from asked.asked_dataset_builder import Builder
Builder(data_dir=sys.argv[2]).download_and_prepare(file_format="array_record")
"""
READER = """
import sys
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.qa.task import QuestionAnswering
from pipelines.tasks.task import Columns
for source, labeled in (("train", False), ("train", True), ("test", False)):
    try:
        found = QuestionAnswering().read(f"tfds:asked:{source}", Columns(), labeled)
        for one in sorted(found, key=lambda question: question.id):
            print(one.id, one.context, one.answers, one.span)
    except BadInputError as error:
        print(error)
"""


def test_tensorflow_data_sets_of_squads_shape_are_read(tmp_path: Path) -> None:
    package = tmp_path / "code" / "asked"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "asked_dataset_builder.py").write_text(BUILDER)
    folders = str(tmp_path / "code"), str(tmp_path / "data")
    subprocess.run([sys.executable, "-c", MAKER, *folders], check=True, capture_output=True)
    where = {"TFDS_DATA_DIR": folders[1], "PYTHONPATH": str(ROOT)}
    read = subprocess.run(
        [sys.executable, "-c", READER], env=environment(**where), capture_output=True, text=True
    )
    lines = read.stdout.splitlines()
    assert lines[:3] == [f"q{n} café b c () None" for n in range(3)], read.stderr
    assert lines[3:6] == [
        "q0 café b c () None",
        "q1 café b c ('b',) (5, 6)",
        "q2 café b c ('b', 'b') (5, 6)",
    ]
    assert "1 of 3 questions have no answer" in read.stderr
    assert "no split 'test'" in lines[6]
    assert lines[6].endswith("its splits are train")
