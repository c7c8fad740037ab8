"""Formats of tagged text as they are distributed: comments, numbers of words, other columns."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.tagging.sentence import Sentence
from pipelines.tasks.tagging.task import Tagging, TaggingOptions
from pipelines.tasks.task import Columns
from support.commands import ROOT
from support.labeled_files import save_to_disk, write_parquet
from support.tagged_text import DEFAULT, write_file

Output = pytest.CaptureFixture[str]

CONLL_U = """\
# newdoc id = a
# sent_id = 1
# text = Vámonos ya al mar azul de hoy
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\tV\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
2.1\tya\tya\tADV\tR\t_\t_\t_\t_\t_
3\t#\t#\tSYM\tS\t_\t1\tadv\t_\tSpaceAfter=No

# sent_id = 2
# text = one two three four five six seven
1\tmar\tmar\tNOUN\tN\t_\t0\troot\t_\t_

# newdoc
1\t_\t_\tPUNCT\tP\t_\t0\troot\t_\t_
"""
GERMEVAL = """\
#\thttp://de.wikipedia.org/wiki/Berlin\t[2010-05-26]
1\tBerliner\tB-LOCderiv\tO
2\tSenat\tO\tB-ORG

#\thttp://de.wikipedia.org/wiki/Ulm\t[2010-05-26]
1\tUlm\tB-LOC\tO
"""
CONLL_2012 = """\
#begin document (bc/cctv/00/cctv_0000); part 000
bc/cctv/00/cctv_0000   0   0   In    IN   (TOP(S(PP*  -  -  -  Sp#1  *            *   -
bc/cctv/00/cctv_0000   0   1   May   NNP     (NP*))   -  -  -  Sp#1  (DATE)       *   (1)

bc/cctv/00/cctv_0000   0   0   New   NNP  (TOP(NP*    -  -  -  Sp#1  (GPE*   (V*)  *   -
bc/cctv/00/cctv_0000   0   1   York  NNP         *))  -  -  -  Sp#1      *)    *   *   -

#end document
#begin document (bc/cctv/00/cctv_0000); part 001
bc/cctv/00/cctv_0000   1   0   #     NN   (TOP*)      -  -  -  Sp#1  *            *   -
#end document
"""


def read(content: str, folder: Path, labeled: bool = True, **columns: str) -> list[Sentence]:
    return Tagging().read(write_file(folder, content), Columns(**columns), labeled)


def content(sentences: list[Sentence]) -> list[tuple[str, str]]:
    return [(" ".join(s.tokens), " ".join(s.tags or ())) for s in sentences]


def test_conll_u(tmp_path: Path, capsys: Output) -> None:
    for columns in ({}, {"text": "2", "label": "4"}):
        found = read(CONLL_U, tmp_path, **columns)
        assert content(found) == [
            ("Vamos nos #", "VERB PRON SYM"),
            ("mar", "NOUN"),
            ("_", "PUNCT"),
        ]
        report = capsys.readouterr().err.splitlines()[0]
        for part in ("column 2", "column 4", "6 comment", "1 multiword token", "1 empty node"):
            assert part in report
    assert [s.document for s in found] == [1, 1, 2]
    assert found[0].location(2).endswith("line 8, '#'")  # lines of the file, not of the words
    assert content(read(CONLL_U, tmp_path, label="3"))[0][1] == "ir nosotros #"
    assert content(read(CONLL_U, tmp_path, labeled=False))[1] == ("mar", "")


def test_germeval(tmp_path: Path, capsys: Output) -> None:
    found = read(GERMEVAL, tmp_path)
    assert content(found) == [("Berliner Senat", "B-LOCderiv O"), ("Ulm", "B-LOC")]
    report = capsys.readouterr().err
    for part in ("column 2", "column 3", "2 comment"):
        assert part in report
    assert content(read(GERMEVAL, tmp_path, label="4"))[0][1] == "O B-ORG"
    other = (
        GERMEVAL.replace("B-LOCderiv", "ADJ").replace("B-LOC", "N").replace("f\tO\tO", "f\tN\tO")
    )
    assert content(read(other, tmp_path))[0][1] == "O B-ORG"


def test_conll_2012(tmp_path: Path, capsys: Output) -> None:
    found = read(CONLL_2012, tmp_path)
    assert content(found) == [("In May", "O B-DATE"), ("New York", "B-GPE I-GPE"), ("#", "O")]
    assert [s.document for s in found] == [1, 1, 2]
    assert "4 comment" in capsys.readouterr().err
    assert content(read(CONLL_2012, tmp_path, text="4", label="5"))[0] == ("In May", "IN NNP")


@pytest.mark.parametrize(
    ("text", "words", "comments"),
    [
        ("# O\n1 O\nA B-X\n", ["# 1 A"], 0),  # the word #, as in tweets
        ("#tag O\nA B-X\n\n# O\n", ["#tag A", "#"], 0),
        ("A B-X\n# O\n", ["A #"], 0),
        ("# a comment\nA B-X\n", ["A"], 1),
        ("# newdoc\nA B-X\n\n# newpar id = 3\nB O\n", ["A", "B"], 2),
        ("#\nA B-X\n", ["A"], 1),
        ("# text = A\nA NN x B-X\n", ["A"], 1),  # as many words as columns
        ("# sent_id = 1\nA\tB-X\n", ["A"], 1),
        ("#\tO\nA\tB-X\n", ["# A"], 0),
        ("# 1\nA\tB-X\n", ["A"], 1),  # other separators than the columns
    ],
)
def test_comments_are_skipped_and_words_are_not(
    tmp_path: Path, capsys: Output, text: str, words: list[str], comments: int
) -> None:
    assert [" ".join(s.tokens) for s in read(text, tmp_path)] == words
    assert (f"{comments} comment" in capsys.readouterr().err) == bool(comments)


def test_a_comment_inside_a_sentence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"line 2 has 3 columns.*comments"):
        read("A O\n# a comment\nB O\n", tmp_path)


def test_the_tag_of_other_numbered_columns_is_asked_for(tmp_path: Path) -> None:
    text = "1 A x y z B-X\n2 B x y z O\n"
    with pytest.raises(BadInputError, match=r"6 columns.*--data\.columns\.label"):
        read(text, tmp_path)
    assert content(read(text, tmp_path, label="6")) == [("A B", "B-X O")]
    for first in (0, 7):  # numbers from 0, or of the whole file
        text = f"{first}\tA\tB-X\n{first + 1}\tB\tO\n\n{first + 2}\tC\tO\n"
        assert content(read(text, tmp_path)) == [("A B", "B-X O"), ("C", "O")]
    # A sentence of numbers has no numbers of words.
    assert content(read("1 CD O\n2 CD O\n\nA NN B-X\n", tmp_path)) == [("1 2", "O O"), ("A", "B-X")]
    assert content(read("1 CD B-X\n2 CD O\n", tmp_path, text="1"))[0][0] == "1 2"


def test_sentences_of_several_widths_need_both_columns(tmp_path: Path) -> None:
    text = "A NN O\n\nB NN x O\n"
    with pytest.raises(BadInputError, match="line 3 has 4 columns"):
        read(text, tmp_path, label="2")
    assert content(read(text, tmp_path, text="1", label="2")) == [("A", "NN"), ("B", "NN")]


def test_the_language_of_wikiann_is_removed(tmp_path: Path, capsys: Output) -> None:
    found = read("zh-yue:Ann\tB-PER\nzh-yue::\tO\n\nzh-yue:x\tO\n", tmp_path)
    assert content(found) == [("Ann :", "B-PER O"), ("x", "O")]
    assert (found[0].text, found[0].starts) == ("Ann :", [0, 4])
    assert "'zh-yue:'" in capsys.readouterr().err
    assert content(read("en:a\tO\nde:b\tB-X\n", tmp_path)) == [("en:a de:b", "O B-X")]


def test_text_files_with_columns_are_not_read_as_text(tmp_path: Path) -> None:
    """A run that was trained on numbers of columns also predicts for plain text."""

    def words(text: str, column: str = "") -> list[str]:
        file = write_file(tmp_path, text, "new.txt")
        found = Tagging().read(file, Columns(text=column, label="4" if column else ""), False)
        return [" ".join(s.tokens) for s in found]

    assert words("one two three\n", "2") == ["one two three"]
    assert words("one two\n\nsee B-612\n", "1") == ["one two", "see B - 612"]
    for columns in ("A NN B-X\nB NN O\n", "1\tA\n2\tB\n", "# x\nA\tNN\nB\tNN\n"):
        with pytest.raises(BadInputError, match=r"\.conll"):
            words(columns)
    assert words("A NN B-X\nB NN O\n", "1") == ["A B"]
    assert words("A\nB\n\nC\n", "1") == ["A B", "C"]
    assert words("A\nB\n\nC\n") == ["A", "B", "C"]


# Rows with fields

ROW = {"id": "0", "tokens": ["Ann", "ran"], "pos_tags": [1, 2], "chunk_tags": [3, 4]}
ROW |= {"ner_tags": [1, 0]}


def rows(folder: Path, *records: object) -> str:
    return write_file(folder, "\n".join(map(json.dumps, records)), "data.jsonl")


def test_the_usual_fields_are_chosen_and_printed(tmp_path: Path, capsys: Output) -> None:
    file = rows(tmp_path, ROW)
    assert Tagging().read(file, DEFAULT, labeled=True)[0].tags == ["1", "0"]
    report = capsys.readouterr().err.splitlines()[0]
    for part in ("'tokens', 'ner_tags'", "ignored: id, pos_tags, chunk_tags", "columns.label"):
        assert part in report
    assert Tagging().read(file, Columns(label="pos_tags"), labeled=True)[0].tags == ["1", "2"]
    for words, tags in (("words", "labels"), ("sentence", "tags"), ("tokens", "ner")):
        (found,) = Tagging().read(
            rows(tmp_path, {words: ["Ann"], tags: ["B-X"], "text": "Ann", "labels_of": 3}),
            DEFAULT,
            labeled=True,
        )
        assert (found.tokens, found.tags) == (["Ann"], ["B-X"])
    record = {"tokens": ["a", "b"], "labels": ["news"], "upos": [" N", "V "]}
    capsys.readouterr()
    assert Tagging().read(rows(tmp_path, record), DEFAULT, labeled=True)[0].tags == ["N", "V"]
    assert "spaces around 2 tags" in capsys.readouterr().err
    for record in ({"sentence": "Ann ran"}, {"words": ["Ann", "ran"], "text": "x"}):
        # Columns by number are those of the CoNLL file that a model was trained on.
        numbers = Columns(text="2", label="4")
        (found,) = Tagging().read(rows(tmp_path, record), numbers, labeled=False)
        assert found.tokens == ["Ann", "ran"]


def test_numbers_without_names_are_classes_of_words(tmp_path: Path, capsys: Output) -> None:
    task = Tagging()
    examples = task.read(rows(tmp_path, ROW), DEFAULT, labeled=True)
    report = capsys.readouterr().err
    assert "tags are numbers" in report
    assert "options.tag_names" in report
    assert task.classes(examples) == ["0", "1"]
    for tags, part in (([1, "O"], "'O'"), ([-1, 0], "-1"), ([True, False], "True")):
        with pytest.raises(BadInputError, match=f"line 1: 'ner_tags' contains.*{part}"):
            Tagging().read(rows(tmp_path, ROW | {"ner_tags": tags}), DEFAULT, labeled=True)


NAMES = ["O", "B-PER", "I-PER"]


@pytest.mark.parametrize(
    "names",
    [
        "O\nB-PER\nI-PER\n\n",
        json.dumps(NAMES, indent=1),
        json.dumps({"id2label": {"2": "I-PER", "0": "O", "1": "B-PER"}, "model_type": "bert"}),
        json.dumps({"label2id": {name: number for number, name in enumerate(NAMES)}}),
        json.dumps({str(number): name for number, name in enumerate(NAMES)}),
        json.dumps(
            {
                "features": {
                    "tokens": {"feature": {"dtype": "string"}, "_type": "List"},
                    "pos_tags": {"feature": {"names": ["N"], "_type": "ClassLabel"}},
                    "ner_tags": {"feature": {"names": NAMES, "_type": "ClassLabel"}},
                }
            }
        ),
        json.dumps({"features": {"tags": {"feature": {"names": NAMES}}}}),
    ],
)
def test_names_of_numbers(tmp_path: Path, capsys: Output, names: str) -> None:
    file = write_file(tmp_path, names, "names")
    task = Tagging(TaggingOptions(tag_names=file))
    (found,) = task.read(rows(tmp_path, ROW), DEFAULT, labeled=True)
    assert found.tags == ["B-PER", "O"]
    assert f"2 tags are numbers; {file}" in capsys.readouterr().err
    assert task.classes([found]) == NAMES
    if "pos_tags" not in names:
        conll = write_file(tmp_path, "a 1\nb 2\nc 0\n")
        assert task.read(conll, DEFAULT, labeled=True)[0].tags == ["B-PER", "I-PER", "O"]
    with pytest.raises(BadInputError, match=r"line 1, 'ran' has the tag 3, but .*names has 3"):
        task.read(rows(tmp_path, ROW | {"ner_tags": [1, 3]}), DEFAULT, labeled=True)


@pytest.mark.parametrize(
    "names", ["", "O\n\nB-X", "O\nO", "[1, 2]", "{", '{"features": {}}', '{"0": "O", "2": "B-X"}']
)
def test_files_without_names_are_refused(tmp_path: Path, names: str) -> None:
    task = Tagging(TaggingOptions(tag_names=write_file(tmp_path, names, "names")))
    with pytest.raises(BadInputError, match=r"names.*name"):
        task.read(rows(tmp_path, ROW), DEFAULT, labeled=True)


def test_rows_of_stored_data_sets_have_names(tmp_path: Path, capsys: Output) -> None:
    records = [{"tokens": ["Ann", "Lee"], "ner_tags": [1, 2]}, {"tokens": ["x"], "ner_tags": [0]}]
    parquet = write_parquet(tmp_path / "train.parquet", records)
    saved = save_to_disk(tmp_path / "saved", {"train": records, "test": records[1:]})
    for source in (parquet, f"{saved}:train", f"arrow:{saved}:train"):
        found = Tagging().read(str(source), DEFAULT, labeled=True)
        assert content(found) == [("Ann Lee", "B-PER I-PER"), ("x", "O")]
    assert "numbers" not in capsys.readouterr().err
    with pytest.raises(BadInputError, match=f"{saved}.*train, test"):
        Tagging().read(str(saved), DEFAULT, labeled=True)


def test_files_may_be_compressed_and_arrays(tmp_path: Path) -> None:
    lines = rows(tmp_path, ROW)
    compressed = gzip.compress(Path(lines).read_bytes())
    for name, data in (
        ("a.jsonl.gz", compressed),
        ("a.json", json.dumps([ROW]).encode()),
        ("a.conll.gz", gzip.compress(b"Ann 1\nran 0\n")),
    ):
        (found,) = Tagging().read(write_file(tmp_path, data, name), DEFAULT, labeled=True)
        assert (found.tokens, found.tags) == (["Ann", "ran"], ["1", "0"])
    text = write_file(tmp_path, gzip.compress(b"Ann ran\n"), "a.txt.gz")
    assert Tagging().read(text, DEFAULT, labeled=False)[0].tokens == ["Ann", "ran"]


def test_sentences_with_a_bad_line_are_skipped_on_request(tmp_path: Path, capsys: Output) -> None:
    skip = BadRows(skip=True, most=0.5)
    conll = write_file(tmp_path, "A B-X\n\nB O\nC\nE O\n\nD O\n")
    assert content(Tagging(None, skip).read(conll, DEFAULT, labeled=True)) == [
        ("A", "B-X"),
        ("D", "O"),
    ]
    jsonl = rows(tmp_path, ROW, ROW | {"ner_tags": [1]})
    assert len(Tagging(None, skip).read(jsonl, DEFAULT, labeled=True)) == 1
    report = capsys.readouterr().err
    assert "1 row skipped: not readable (line 4)" in report
    assert "1 row skipped: not readable (line 2)" in report


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("tag", [-100, "-100"])
@pytest.mark.parametrize("field", ["ner_tags", "labels"])
def test_tags_of_pieces_of_words_are_refused(
    field: str, tag: int | str, skip: bool, tmp_path: Path
) -> None:
    other: int | str = 0 if isinstance(tag, int) else "O"
    words = {"tokens": ["[CLS]", "Ann"]} if field == "ner_tags" else {"input_ids": [101, 7]}
    jsonl = rows(tmp_path, *[words | {field: [tag, other]}] * 2)
    conll = write_file(tmp_path, f"Ann {other}\n##a {tag}\n")
    task = Tagging(None, BadRows(skip))
    for source, place in ((jsonl, f"line 1: '{field}'"), (conll, "line 2")):
        with pytest.raises(BadInputError, match=f"{place} has the tag -100.*before tokenization"):
            task.read(source, DEFAULT, labeled=True)
    assert len(task.read(conll, DEFAULT, labeled=False)) == 1


SHARED = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.skipif(
    not (SHARED / "formats/finetune").is_dir(), reason=f"{SHARED} has no formats/finetune"
)
def test_real_forms_of_the_same_sentences(tmp_path: Path) -> None:
    """CoNLL-2003's columns and numbers of the hub give the same entities."""
    folder = SHARED / "formats/finetune"
    columns = Tagging()
    conll = columns.read(str(folder / "eng.train"), DEFAULT, labeled=True)
    names = write_file(tmp_path, "\n".join(columns.classes(conll)), "names.txt")
    numbers = Tagging(TaggingOptions(tag_names=names))
    hub = numbers.read(str(folder / "hf_ner.jsonl"), DEFAULT, labeled=True)
    assert [s.tags for s in hub] == [s.tags for s in conll]
    assert numbers.counts(hub).total() == 156
    universal = Tagging().read(str(folder / "ud.conllu"), DEFAULT, labeled=False)
    assert [s.tokens for s in universal] == [s.tokens for s in conll][: len(universal)]
