"""Tables for tagging: .csv, tables in .tsv, and columns that are not what they seem."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.tables.literals import list_in
from pipelines.tasks.tagging.sentence import Sentence
from pipelines.tasks.tagging.task import Tagging
from pipelines.tasks.task import Columns
from support.tagged_text import write_file

Output = pytest.CaptureFixture[str]

EXPECTED = [("Ada runs", "B-PER O"), ("Ulm", "B-LOC")]
LISTS = "tokens,ner_tags\n\"['Ada', 'runs']\",\"['B-PER', 'O']\"\n['Ulm'],['B-LOC']\n"
TABBED = "tokens\tner_tags\n['Ada', 'runs']\t['B-PER', 'O']\n['Ulm']\t['B-LOC']\n"
ARRAYS = "tokens,ner_tags\n['Ada' 'runs'],['B-PER' 'O']\n['Ulm'],['B-LOC']\n"
KAGGLE = (
    "Sentence #,Word,POS,Tag\nSentence: 1,Ada,NN,B-PER\n{},runs,VB,O\nSentence: 2,Ulm,NN,B-LOC\n"
)
FORMS = {
    "lists.csv": LISTS,
    "lists.tsv": TABBED,
    "arrays.csv": ARRAYS,
    "spaces.csv": "text,labels\nAda runs,B-PER O\nUlm,B-LOC\n",
    "spaces.tsv": "tokens\ttags\nAda runs\tB-PER O\nUlm\tB-LOC\n",
    "mixed.csv": "Sentence #,Sentence,POS,Tag\n1,Ada runs,\"['N', 'V']\",\"['B-PER', 'O']\"\n"
    "2,Ulm,['N'],['B-LOC']\n",
    "first.csv": KAGGLE.format(""),
    "all.csv": KAGGLE.format("Sentence: 1"),
    "all.tsv": KAGGLE.format("Sentence: 1").replace(",", "\t"),
    "ids.csv": "sentence_id,words,labels\n0,Ada,B-PER\n0,runs,O\n1,Ulm,B-LOC\n",
    "semicolons.csv": "sentence_id;words;labels\n0;Ada;B-PER\n0;runs;O\n1;Ulm;B-LOC\n",
    "sentence.tsv": "sentence\tword\ttag\n0\tAda\tB-PER\n0\truns\tO\n1\tUlm\tB-LOC\n",
    "header.tsv": "word\ttag\nAda\tB-PER\nruns\tO\n\nUlm\tB-LOC\n",
    "header.conll": "token pos ner x\nAda N B-PER 1\nruns V O 2\n\nUlm N B-LOC 3\n",
}


def read(
    content: str, folder: Path, name: str, labeled: bool = True, **columns: str
) -> list[Sentence]:
    return Tagging().read(write_file(folder, content, name), Columns(**columns), labeled)


def content(sentences: list[Sentence]) -> list[tuple[str, str]]:
    return [(" ".join(s.tokens), " ".join(s.tags or ())) for s in sentences]


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str, tmp_path: Path, capsys: Output) -> None:
    assert content(read(FORMS[name], tmp_path, name)) == EXPECTED
    assert name in capsys.readouterr().err  # what is read
    assert [" ".join(s.tokens) for s in read(FORMS[name], tmp_path, name, labeled=False)] == [
        words for words, _ in EXPECTED
    ]


def test_rows_of_words(tmp_path: Path, capsys: Output) -> None:
    found = read(KAGGLE.format(""), tmp_path, "a.csv", id="Sentence #", label="POS")
    assert [s.id for s in found] == ["Sentence: 1", "Sentence: 2"]
    assert found[0].tags == ["NN", "VB"]
    assert found[0].location(1).endswith("line 3, 'runs'")
    report = capsys.readouterr().err
    for part in ("'Word'", "'POS'", "'Sentence #'", "3 words", "2 sentences", "Tag"):
        assert part in report
    for rows, line in (
        ("1,a,O\n2,b,O\n1,c,B-X\n", 4),
        (",a,O\n", 2),
        ("1,a,O\n1,,O\n", 3),
        ("1,a,-100\n", 2),
    ):
        with pytest.raises(BadInputError, match=f"line {line}"):
            read(f"sentence_id,word,tag\n{rows}", tmp_path, "b.csv")
    rows = "1,a,O\n1,,O\n" + "".join(f"{n},b,B-X\n" for n in range(2, 20))
    file = write_file(tmp_path, f"sentence_id,word,tag\n{rows}", "c.csv")
    assert len(Tagging(bad_rows=BadRows(skip=True)).read(file, Columns(), True)) == 18


def test_texts_to_predict(tmp_path: Path, capsys: Output) -> None:
    for name, text in (("a.csv", "text\nAda runs.\nUlm\n"), ("a.tsv", "text\nAda runs.\nUlm\n")):
        found = read(text, tmp_path, name, labeled=False)
        assert [s.tokens for s in found] == [["Ada", "runs", "."], ["Ulm"]]
        assert "'text'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.csv", "Ada, B-PER\nruns, O\n\nUlm, B-LOC\n", "B-PER"),
        ("a.csv", "Ada;B-PER\nruns;O\n", "B-PER"),
        ("a.csv", "word,tag\nAda,B-PER\n\nUlm,B-LOC\n", "sentence_id"),
        ("a.csv", "text,label\na good film,1\nbad,0\n", "sentence_id"),
        ("a.csv", "text,other\na b,O O\n", "other"),
        ("a.csv", LISTS.replace("['B-LOC']", "\"['B-LOC', 'O']\""), "line 3"),
        ("a.csv", LISTS.replace("['B-LOC']", "B-LOC['"), "line 3"),
        ("a.conll", "Ada, B-PER\nruns, O\n\nUlm, B-LOC\n", "commas"),
        ("a.tsv", "Ada runs\tB-PER O\nUlm in\tB-LOC O\n", "tokens"),
        ("a.tsv", "B-PER\tAda\nO\truns\n\nB-LOC\tUlm\n", "--data.columns.text 2 "),
        ("a.conll", "Ada B-PER 0.900\nruns O 0.901\n", "column 3"),
        ("a.jsonl", '{"text": "Ada", "label": [[0, 3, "PER"]]}\n', "line 1"),
    ],
)
def test_refused(name: str, text: str, named: str, tmp_path: Path, capsys: Output) -> None:
    with pytest.raises(BadInputError, match=named):
        read(text, tmp_path, name)
    assert "reads 'tokens'" not in capsys.readouterr().err


def test_words_that_look_like_a_header(tmp_path: Path) -> None:
    assert len(read("word tag\nAda other\nruns tag\n", tmp_path, "a.conll")[0].tokens) == 3


@pytest.mark.parametrize(
    "items", [["a", " ", "b"], ["it's", '"', "' '"], ["\\", "'"], ["a, b", "]"], []]
)
def test_lists_of_python(items: list[str]) -> None:
    assert list_in(str(items)) == items
