"""Sentences with tags from files and data sets, and what is said of bad ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tagging.sentence import split_words
from pipelines.tasks.tagging.task import Tagging
from pipelines.tasks.task import Columns
from support.commands import ROOT
from support.tagged_text import DEFAULT, write_file

CONLL = """\
-DOCSTART- -X- O O

Ann NNP B-NP B-PER
Lee NNP I-NP I-PER
met VBD B-VP O
Bob NNP B-NP B-PER

in IN B-PP O
Rome NNP B-NP B-LOC

-DOCSTART- -X- O O

Bob NNP B-NP B-PER
ran VBD B-VP O
"""


def test_conll_columns_become_sentences_and_documents(tmp_path: Path) -> None:
    for text in (CONLL, CONLL.replace(" ", "\t"), CONLL.replace("\n", "\r\n"), "\ufeff" + CONLL):
        result = Tagging().read(write_file(tmp_path, text), DEFAULT, labeled=True)
        assert [s.tokens for s in result] == [
            ["Ann", "Lee", "met", "Bob"],
            ["in", "Rome"],
            ["Bob", "ran"],
        ]
        assert [s.tags for s in result] == [
            ["B-PER", "I-PER", "O", "B-PER"],
            ["O", "B-LOC"],
            ["B-PER", "O"],
        ]
        assert [s.id for s in result] == ["0", "1", "2"]
        assert [s.document for s in result] == [1, 1, 2]
        assert result[1].location(1).endswith("data.conll, line 9, 'Rome'")


def test_columns_are_chosen_by_number(tmp_path: Path) -> None:
    file = write_file(tmp_path, CONLL)
    first = Tagging().read(file, Columns(label="3"), labeled=True)[0]
    assert first.tags == ["B-NP", "I-NP", "B-VP", "B-NP"]
    first = Tagging().read(file, Columns(text="2", label="1"), labeled=True)[0]
    assert (first.tokens, first.tags) == (
        ["NNP", "NNP", "VBD", "NNP"],
        ["Ann", "Lee", "met", "Bob"],
    )


def test_without_labels_a_column_of_tokens_is_enough(tmp_path: Path) -> None:
    (result,) = Tagging().read(write_file(tmp_path, "Ann\nran\n"), DEFAULT, labeled=False)
    assert (result.tokens, result.tags) == (["Ann", "ran"], None)


def test_json_lines_contain_tokens_and_tags(tmp_path: Path) -> None:
    line = {"tokens": ["Ann", "ran"], "tags": ["B-PER", "O"], "key": 7, "words": ["x"], "y": ["O"]}
    file = write_file(tmp_path, json.dumps(line) + "\n\n", "data.jsonl")
    (result,) = Tagging().read(file, Columns(id="key"), labeled=True)
    assert (result.id, result.tokens, result.tags) == ("7", ["Ann", "ran"], ["B-PER", "O"])
    (result,) = Tagging().read(file, Columns(text="words", label="y"), labeled=True)
    assert (result.id, result.tokens, result.tags) == ("0", ["x"], ["O"])
    (result,) = Tagging().read(file, DEFAULT, labeled=False)
    assert (result.tokens, result.tags) == (["Ann", "ran"], None)


def test_text_is_split_into_words_with_their_offsets(tmp_path: Path) -> None:
    line = "  Ann's dog (Rex) — naïve हिन्दी é"
    file = write_file(tmp_path, f"{line}\n\nBob.\n", "data.txt")
    first, second = Tagging().read(file, DEFAULT, labeled=False)
    assert first.tokens == ["Ann", "'", "s", "dog", "(", "Rex", ")", "—", "naïve", "हिन्दी", "é"]
    assert [
        first.text[a : a + len(t)] for a, t in zip(first.starts, first.tokens, strict=True)
    ] == (first.tokens)
    assert first.text == line
    assert first.document != second.document
    file = write_file(tmp_path, json.dumps({"text": line}), "data.jsonl")
    (same,) = Tagging().read(file, DEFAULT, labeled=False)
    assert (same.tokens, same.starts) == (first.tokens, first.starts)
    assert split_words("e\u0301a b") == (["e\u0301a", "b"], [0, 4])


BUILDER = """
import json, sys
import tensorflow_datasets as tfds
from tensorflow_datasets import features as kinds

class Tagged(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        ner = kinds.Sequence(kinds.ClassLabel(names=["O", "B-PER", "I-PER"]))
        text = kinds.Sequence(kinds.Text())
        features = kinds.FeaturesDict({"tokens": text, "ner": ner, "pos": text})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        tags = {"train": [1, 2, 0], "test": [-1, -1, -1]}
        return {split: self._generate_examples(ner) for split, ner in tags.items()}

    def _generate_examples(self, ner):
        yield 0, {"tokens": ["Ann", "Lée", "ran"], "ner": ner, "pos": ["N", "N", "V"]}

if __name__ == "__main__":
    Tagged(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
    from bert_jax.runtime.errors import BadInputError
    from pipelines.tasks.tagging.task import Tagging
    from pipelines.tasks.task import Columns
    for spec, columns, labeled in json.loads(sys.argv[2]):
        try:
            found = [[s.tokens, s.tags] for s in Tagging().read(spec, Columns(**columns), labeled)]
        except BadInputError as error:
            found = str(error)
        print(json.dumps(found))
"""


def test_tensorflow_data_sets_are_read_with_the_names_of_their_tags(tmp_path: Path) -> None:
    (tmp_path / "tagged.py").write_text(BUILDER)
    cases = [
        ("tfds:tagged:train", {}, True),
        ("tfds:tagged:train", {"label": "pos"}, True),
        ("tfds:tagged:test", {}, False),
        ("tfds:tagged:test", {}, True),
        ("tfds:tagged:dev", {}, True),
        ("tfds:tagged", {}, True),
        ("tfds:tagged:train", {"label": "tag"}, True),
    ]
    result = subprocess.run(
        [sys.executable, "tagged.py", tmp_path / "data", json.dumps(cases)],
        cwd=tmp_path,
        env={
            **os.environ,
            "TFDS_DATA_DIR": str(tmp_path / "data"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers = result.stdout.splitlines()[-len(cases) :]
    ner, pos, unlabeled, without, split, none, field = map(json.loads, answers)
    tokens = ["Ann", "Lée", "ran"]
    assert ner == [[tokens, ["B-PER", "I-PER", "O"]]]
    assert pos == [[tokens, ["N", "N", "V"]]]
    assert unlabeled == [[tokens, None]]
    assert "tfds:tagged:test, example 0" in without
    assert "empty tag" in without
    assert "its splits are train, test" in split
    assert "tfds:tagged names no split" in none
    assert "no field 'tag'" in field
    assert "'pos'" in field


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann B-PER\nran\n", ["line 2", "1 columns", "lines before have 2", "'ran'"]),
        ("Ann\tB-PER\nNew York\tB-LOC\tx\n", ["line 2", "3 columns"]),
        ("Ann\nran\n", ["line 1", "no tag", "'Ann'"]),
        ("Ann\tO\nran\t\n", ["line 2", "no tag"]),
        ("Ann\tO\n\tO\n", ["line 2", "no token"]),
        ("\nAnn B-PER\nran PER\n", ["line 3, 'ran'", "'PER'", "'B-PER'"]),
        ("", ["has no words"]),
        ("\n\n-DOCSTART- O\n\n", ["has no words"]),
        (b"Ann O\ncaf\xe9 O\n", ["line 2", "not UTF-8", "0xe9", "iconv"]),
        (b"A\0n\0 O\n", ["line 1", "NUL"]),
    ],
)
def test_an_error_in_a_conll_file_is_reported_in_one_line(
    tmp_path: Path, text: str | bytes, words: list[str]
) -> None:
    file = write_file(tmp_path, text)
    with pytest.raises(BadInputError) as caught:
        Tagging().read(file, DEFAULT, labeled=True)
    message = str(caught.value)
    assert "\n" not in message
    for word in [file, *words]:
        assert word in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["line 2", "JSON"]),
        ("[1]", ["line 2", "JSON"]),
        ("[" * 100_000, ["line 2", "JSON"]),
        ('{"words": ["a"]}', ["no field 'tokens'", "'words'"]),
        ('{"tokens": ["a", "b"], "tags": ["O"]}', ["2 tokens", "1 tags"]),
        ('{"tokens": "a b", "tags": ["O"]}', ["'tokens'", "not a list"]),
        ('{"tokens": ["a"], "tags": [3]}', ["'tags'", "3"]),
        ('{"tokens": ["a"], "tags": [""]}', ["'tags'", "empty"]),
        ('{"tokens": ["\\ud83d"], "tags": ["O"]}', ["'tokens'", "unpaired surrogate"]),
        ('{"tokens": ["a"], "tags": ["O"], "id": "x"}', ["'x'", "line 1"]),
        ('{"tokens": ["a"], "tags": ["O"], "id": [1]}', ["'id'", "integer"]),
    ],
)
def test_an_error_in_json_lines_is_reported_in_one_line(
    tmp_path: Path, line: str, words: list[str]
) -> None:
    good = '{"tokens": ["a"], "tags": ["O"], "id": "x"}\n'
    file = write_file(tmp_path, good + line + "\n", "data.jsonl")
    with pytest.raises(BadInputError) as caught:
        Tagging().read(file, Columns(id="id"), labeled=True)
    message = str(caught.value)
    assert "\n" not in message
    for word in [file, "line 2", *words]:
        assert word in message


def test_impossible_columns_are_refused(tmp_path: Path) -> None:
    file = write_file(tmp_path, CONLL)
    for number in ("0", "5", "-1", "ner", "9" * 5000):
        with pytest.raises(BadInputError, match="has 4 columns"):
            Tagging().read(file, Columns(label=number), labeled=True)
    with pytest.raises(BadInputError, match="no ids"):
        Tagging().read(file, Columns(id="1"), labeled=True)
    with pytest.raises(BadInputError, match="no pairs"):
        Tagging().read(file, Columns(pair="2"), labeled=True)
    with pytest.raises(BadInputError, match="No such file"):
        Tagging().read(str(tmp_path / "none"), DEFAULT, labeled=True)
    with pytest.raises(BadInputError, match=r"rename the file to \.conll"):
        Tagging().read(write_file(tmp_path, CONLL, "train.txt"), DEFAULT, labeled=False)
