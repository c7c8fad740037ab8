"""Labels in the forms in which people have them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers.tokenizer import Tokenizer, load
from pipelines.tasks.classification import Classification
from pipelines.tasks.multi_label.task import MultiLabel, MultiLabelOptions
from pipelines.tasks.task import Columns
from support.finetuned import MODEL
from support.task_files.task_files import json_lines

Sets = list[tuple[str, ...]]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load(MODEL)


def read(
    path: Path, text: str, label: str = "", **options: str
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the labels of a file, and those of each row."""
    path.write_text(text, "utf-8")
    task = MultiLabel(MultiLabelOptions(**options))
    examples = task.read(str(path), Columns(label=label), labeled=True)
    assert all(example.text for example in examples)
    return task.classes(examples), [example.labels or () for example in examples]


def rows(values: list[Any], name: str = "labels") -> str:
    return json_lines(*({"text": f"the {n}", name: value} for n, value in enumerate(values)))


def table(values: list[str], name: str = "labels") -> str:
    quoted = ['"' + value.replace('"', '""') + '"' for value in values]
    return "\n".join([f"text,{name}", *(f"the {n},{v}" for n, v in enumerate(quoted))]) + "\n"


JSON_LINES: list[tuple[list[Any], list[str], Sets]] = [
    ([["b", "a"], [], ["a"]], ["a", "b"], [("b", "a"), (), ("a",)]),
    ([["very happy", " sad "], ["sad"]], ["sad", "very happy"], [("very happy", "sad"), ("sad",)]),
    ([["a", "a"], ["b"]], ["a", "b"], [("a",), ("b",)]),
    # Ids: in the order of the numbers; a single number is one label.
    ([[2, 7], [10], 2], ["2", "7", "10"], [("2", "7"), ("10",), ("2",)]),
    ([[0, 1], [1], [2, 0]], ["0", "1", "2"], [("0", "1"), ("1",), ("2", "0")]),
    # 0 or 1 for every label, also as transformers needs them: as floats.
    ([[0, 1, 0], [1, 1, 0]], ["0", "1", "2"], [("1",), ("0", "1")]),
    ([[0.0, 1.0], [0.0, 0.0]], ["0", "1"], [("1",), ()]),
    ([[False, True], [True, False]], ["0", "1"], [("1",), ("0",)]),
    ([[-1, -1, -1], [0, 1, 0]], ["0", "1", "2"], [("1",)]),
    # Objects: labels that no row has are labels, too.
    ([{"b": 1, "a": 0, "c": 0}, {"b": 0, "a": 1, "c": 0}], ["b", "a", "c"], [("b",), ("a",)]),
    ([{"a": True}, {"b": True}, {}], ["a", "b"], [("a",), ("b",), ()]),
    (["a|b", "c", ""], ["a", "b", "c"], [("a", "b"), ("c",), ()]),
]
TEXTS: list[tuple[list[str], list[str], Sets]] = [
    (["a|b", "", "New York|a"], ["New York", "a", "b"], [("a", "b"), (), ("New York", "a")]),
    (["a; b", "c"], ["a", "b", "c"], [("a", "b"), ("c",)]),
    (["a, b", "c"], ["a", "b", "c"], [("a", "b"), ("c",)]),
    # The first of |;, that occurs separates; names may contain the others.
    (["Food, drink|Art", "Art"], ["Art", "Food, drink"], [("Food, drink", "Art"), ("Art",)]),
    (["|a|b|", "|b|"], ["a", "b"], [("a", "b"), ("b",)]),
    (["<c++><sql>", "<sql>"], ["c++", "sql"], [("c++", "sql"), ("sql",)]),
    (["2,7", "10"], ["2", "7", "10"], [("2", "7"), ("10",)]),
    (["a label", "my label"], ["a label", "my label"], [("a label",), ("my label",)]),
    (["(other)", "a"], ["(other)", "a"], [("(other)",), ("a",)]),
    # Lists as pandas writes them: of Python, of JSON, of NumPy; tuples and sets.
    (["['a', \"it's\"]", "[]"], ["a", "it's"], [("a", "it's"), ()]),
    (['["a", "b"]', '["b"]'], ["a", "b"], [("a", "b"), ("b",)]),
    (["['a' 'b c']", "['b c']"], ["a", "b c"], [("a", "b c"), ("b c",)]),
    (["['a'\n 'b']", "['b']"], ["a", "b"], [("a", "b"), ("b",)]),
    (["('a', 'b')", "('b',)"], ["a", "b"], [("a", "b"), ("b",)]),
    (["{'b', 'a'}", "{'b'}"], ["a", "b"], [("a", "b"), ("b",)]),
    (["[a, b c]", "[a]"], ["a", "b c"], [("a", "b c"), ("a",)]),
    (["[0 1 0]", "[1 1 0]"], ["0", "1", "2"], [("1",), ("0", "1")]),
    (["[0, 1, 0]", "[1, 1, 0]"], ["0", "1", "2"], [("1",), ("0", "1")]),
    (["[0. 1.]", "[1. 1.]"], ["0", "1"], [("1",), ("0", "1")]),
    (["{'a': 1, 'b': 0}", "{'a': 0, 'b': 1}"], ["a", "b"], [("a",), ("b",)]),
]


@pytest.mark.parametrize(("values", "classes", "sets"), JSON_LINES)
def test_json_lines(values: list[Any], classes: list[str], sets: Sets, tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", rows(values)) == (classes, sets)
    assert read(tmp_path / "a.jsonl", rows(values, "mood"), "mood") == (classes, sets)


@pytest.mark.parametrize(("values", "classes", "sets"), TEXTS)
def test_a_column_of_texts(
    values: list[str], classes: list[str], sets: Sets, tmp_path: Path
) -> None:
    assert read(tmp_path / "a.csv", table(values)) == (classes, sets)
    assert read(tmp_path / "a.jsonl", rows(values, "genres")) == (classes, sets)


@pytest.mark.parametrize(
    ("separator", "text", "labels"),
    [
        ("none", "Food, drink", ("Food, drink",)),
        ("space", "cs.CL  cs.LG", ("cs.CL", "cs.LG")),
        (" ", "cs.CL cs.LG", ("cs.CL", "cs.LG")),
        ("/", "a, b/c", ("a, b", "c")),
        ("comma", "a|b,c", ("a|b", "c")),
    ],
)
def test_a_separator_that_is_not_detected(
    separator: str, text: str, labels: tuple[str, ...], tmp_path: Path
) -> None:
    _, sets = read(tmp_path / "a.csv", table([text, ""]), separator=separator)
    assert sets == [labels, ()]


TOXIC = "id,text,toxic,threat,insult\n7,the,1,0,1\n8,man,0,0,0\n9,in,0,0,1\n"
TOXIC_SETS: Sets = [("toxic", "insult"), (), ("insult",)]


@pytest.mark.parametrize("label", ["", "toxic,threat,insult", "toxic, threat, insult"])
def test_one_column_per_label(label: str, tmp_path: Path) -> None:
    names = ["toxic", "threat", "insult"]
    assert read(tmp_path / "a.csv", TOXIC, label) == (names, TOXIC_SETS)
    as_words = TOXIC.replace(",1", ",True").replace(",0", ",False")
    assert read(tmp_path / "a.csv", as_words, label) == (names, TOXIC_SETS)
    # As Jigsaw marks the rows of the test set that do not count.
    absent = f"{TOXIC}10,a,-1,-1,-1\n11,milk,-1,-1,-1\n"
    assert read(tmp_path / "a.csv", absent, label) == (names, TOXIC_SETS)
    flags = json_lines(
        {"text": "the", "toxic": 1, "threat": 0}, {"text": "man", "toxic": False, "threat": True}
    )
    assert read(tmp_path / "a.jsonl", flags, "toxic,threat")[1] == [("toxic",), ("threat",)]


def test_other_columns_of_flags_can_be_left_out(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", TOXIC, "insult,toxic")[0] == ["insult", "toxic"]
    assert read(tmp_path / "a.csv", TOXIC, "insult") == (["insult"], [("insult",), (), ("insult",)])
    # True and False beside columns of 0 and 1 are no labels (GoEmotions: example_very_unclear).
    mixed = "text,unclear,joy,fear,rater\nthe,False,1,0,3\nman,True,0,0,4\n"
    assert read(tmp_path / "a.csv", mixed)[0] == ["joy", "fear"]
    # The index that pandas writes is none, even if it is 0 and 1.
    index = ",text,joy,fear\n0,the,1,0\n1,man,0,1\n"
    assert read(tmp_path / "a.csv", index)[0] == ["joy", "fear"]


def test_numbers_with_a_file_of_names(tmp_path: Path) -> None:
    names = tmp_path / "emotions.txt"
    names.write_text("joy\nlove\nfear\n", "utf-8")
    for text in (rows([[0, 2], [2]]), rows(["0,2", "2"]), rows([["joy", "fear"], "fear"])):
        classes, sets = read(tmp_path / "a.jsonl", text, label_names=str(names))
        assert classes == ["joy", "love", "fear"]
        assert sets == [("joy", "fear"), ("fear",)]
    vectors = rows([[0, 1, 0], [0, 0, 1]])
    assert read(tmp_path / "a.jsonl", vectors, label_names=str(names))[1] == [("love",), ("fear",)]
    for text in (rows([[0, 3]]), rows(["4"]), rows([["anger"]]), rows([[0, 1]] * 2)):
        with pytest.raises(BadInputError, match="line 1"):
            read(tmp_path / "a.jsonl", text, label_names=str(names))
    for wrong in ("joy\n\nfear\n", "joy\nlove\njoy\n"):
        names.write_text(wrong, "utf-8")
        with pytest.raises(BadInputError, match=r"emotions\.txt(, line 2|: name 3)"):
            read(tmp_path / "a.jsonl", rows([[0]]), label_names=str(names))


WRONG: list[tuple[str, list[Any], str]] = [
    ("jsonl", [["a"], None], "line 2"),
    ("jsonl", [["a"], True], "line 2"),
    ("jsonl", [["a"], [None]], "line 2"),
    ("jsonl", [["a"], ["a", ["b"]]], "line 2"),
    ("jsonl", [["a"], [""]], "line 2"),
    ("jsonl", [[0.2, 0.8], [1.0, 0.0]], "line 1"),
    ("jsonl", [{"a": 1}, {"a": 0.4}], "line 2"),
    ("jsonl", [{"a": 1}, ["a"]], "line 2"),
    ("jsonl", [[-1, 0], [1, 0]], "line 1"),
    ("jsonl", [[], []], "line 1"),
    ("jsonl", ["['a']", "['a', 'b'"], "line 2"),
    ("jsonl", ["['a']", "b, c"], "line 2"),
    ("csv", ["['a', 'b'+]", "['a']"], "line 2"),
    ("csv", ["[1e400]", "[1]"], "line 2"),
    ("csv", ["[" + "[" * 5000 + "]" * 5000 + "]"], "line 2"),
]


@pytest.mark.parametrize(("suffix", "values", "where"), WRONG)
def test_what_is_no_list_of_labels(
    suffix: str, values: list[Any], where: str, tmp_path: Path
) -> None:
    text = rows(values) if suffix == "jsonl" else table(values)
    with pytest.raises(BadInputError, match=where):
        read(tmp_path / f"a.{suffix}", text)


@pytest.mark.parametrize(
    ("text", "label", "match"),
    [
        ("text,note\nthe,x\nman,y\n", "", "columns.label"),
        (TOXIC, "toxic,obscene", "obscene"),
        (TOXIC.replace("8,man,0", "8,man,0.4"), "toxic,threat", r"line 3: 'toxic' is '0\.4'"),
        (TOXIC.replace("8,man,0", "8,man,"), "toxic,threat", "line 3"),
        ("text,joy,fear\nthe,-1,-1\nman,-1,-1\n", "joy,fear", "a.csv"),
        ("text,joy,fear\nthe,0,0\nman,0,0\n", "", "no row"),
    ],
)
def test_wrong_columns(text: str, label: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=match):
        read(tmp_path / "a.csv", text, label)


def test_labels_that_the_model_lacks_and_the_other_way_around(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    task, path = MultiLabel(), tmp_path / "a.csv"

    def features(text: str, classes: list[str], label: str = "") -> Any:
        path.write_text(text, "utf-8")
        examples = task.read(str(path), Columns(label=label), labeled=True)
        return task.features(examples, tokenizer, 16, classes).arrays

    arrays = features(TOXIC, ["insult", "threat", "toxic"])
    assert arrays["labels"].tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert arrays["weights"].tolist() == [1, 1, 1], "rows without labels count"
    # A missing column would be 0 in every row.
    with pytest.raises(BadInputError, match="obscene"):
        features(TOXIC, ["toxic", "threat", "insult", "obscene"])
    # A column of 0 and 1 that was found by itself may be anything, one that is named may not.
    assert features(TOXIC, ["toxic", "threat"])["labels"].tolist() == [[1, 0], [0, 0], [0, 0]]
    with pytest.raises(BadInputError, match="insult"):
        features(TOXIC, ["toxic", "threat"], "toxic,threat,insult")
    with pytest.raises(BadInputError, match=r"line 3.*'c'"):
        features(table(["a|b", "c"]), ["a", "b"])
    assert features(table(["a", "b"]), ["a", "b", "c"])["labels"].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_prediction_needs_no_labels_and_ignores_them(tmp_path: Path, tokenizer: Tokenizer) -> None:
    task, path = MultiLabel(), tmp_path / "a.csv"
    label = "breaking news here|sports of today"
    for text in (TOXIC, "text\nthe\n", f"text,tags\nthe,{label}\nman,{label} again\n"):
        path.write_text(text, "utf-8")
        examples = task.read(str(path), Columns(label="toxic,threat"), labeled=False)
        assert examples[0].text == "the"
        assert not examples[0].pair
        arrays = task.features(examples, tokenizer, 16, ["x", "y"]).arrays
        assert not arrays["weights"].any()
    # A pair beside the labels.
    path.write_text("sentence1,sentence2,x,y\nthe,man,1,0\nin,a,0,1\n", "utf-8")
    (first, _) = task.read(str(path), Columns(), labeled=True)
    assert (first.text, first.pair, first.labels) == ("the", "man", ("x",))


def test_what_is_read_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path / "a.csv", f"{TOXIC}10,a,-1,-1,-1\n")
    printed = capsys.readouterr().err
    for part in ("toxic, threat, insult", "1 row skipped", "line 5", "insult 2", "1 of 3 rows"):
        assert part in printed, part
    assert "without examples" in printed
    assert "threat" in printed
    read(tmp_path / "a.csv", table(["a|b", "c"]))
    assert "'|'" in capsys.readouterr().err
    read(tmp_path / "a.csv", table(["a", "c"]))
    assert "classification" in capsys.readouterr().err


def test_every_label_of_a_data_set_is_one(tmp_path: Path) -> None:
    """As `datasets` writes lists of ClassLabel to Parquet, such as those of go_emotions."""
    classes = {"names": ["joy", "love", "anger"], "_type": "ClassLabel"}
    for feature in ({"feature": classes, "_type": "List"}, [classes]):
        features = {"text": {"dtype": "string", "_type": "Value"}, "labels": feature}
        described = json.dumps({"info": {"features": features}})
        table = pa.table({"text": ["the", "man", "a"], "labels": [[1, 0], [], [1]]})
        path = tmp_path / "a.parquet"
        pq.write_table(table.replace_schema_metadata({"huggingface": described}), path)
        task = MultiLabel()
        examples = task.read(str(path), Columns(), labeled=True)
        assert task.classes(examples) == classes["names"]
        assert [example.labels for example in examples] == [("love", "joy"), (), ("love",)]


def test_a_table_without_a_header(tmp_path: Path) -> None:
    """As in the repository of go_emotions: text, ids, annotator."""
    path, names = tmp_path / "a.tsv", tmp_path / "names.txt"
    path.write_text("the\t2,0\tabc\nman\t1\tdef\na\t\tdef\n", "utf-8")
    names.write_text("joy\nlove\nanger\n", "utf-8")
    task = MultiLabel(MultiLabelOptions(label_names=str(names)))
    examples = task.read(str(path), Columns(text="1", label="2"), labeled=True)
    assert [example.labels for example in examples] == [("anger", "joy"), ("love",), ()]


def flags(*odd: str) -> str:
    """Return a table with the labels toxic and threat; the first values of threat are `odd`."""
    values = [*odd, *"01010101"]
    return "id,text,year,toxic,threat,replies\n" + "".join(
        f"{n},the {n},{2001 + n},{n % 2},{value},{n % 5}\n" for n, value in enumerate(values)
    )


@pytest.mark.parametrize("odd", [("",), ("2",), ("0", "0.5"), ("x",), ("1", "", "")])
def test_a_column_of_nearly_only_flags_is_not_ignored(odd: tuple[str, ...], tmp_path: Path) -> None:
    path, line = tmp_path / "a.csv", next(n for n, x in enumerate(odd, 2) if x not in ("0", "1"))
    with pytest.raises(BadInputError, match=rf"line {line}: 'threat' .*columns\.label A,B"):
        read(path, flags(*odd))
    assert read(path, flags(*odd), "toxic")[0] == ["toxic"]
    assert MultiLabel().read(str(path), Columns(), labeled=False)
    assert read(path, flags("0"))[0] == ["toxic", "threat"]  # no year, no replies


def test_a_column_of_fractions_is_not_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    text = "text,toxic,threat\nthe,1,0.0\nman,0,0.7\nin,1,0.2\na,0,0.9\n"
    with pytest.raises(BadInputError, match=r"line 3: 'threat' is '0\.7'"):
        read(path, text)
    assert read(path, text, "toxic") == (["toxic"], [("toxic",), (), ("toxic",), ()])
    assert "1 column is a label: toxic" in capsys.readouterr().err
    # Without a column of only 0 and 1, as where one row is blank in all columns.
    with pytest.raises(BadInputError, match=r"line 2: 'toxic' is empty"):
        read(path, "text,toxic,threat\nthe,,\nman,0,1\nin,1,1\na,0,0\n")


@pytest.mark.parametrize("value", ["nan", "NaN", "None", "<NA>"])
def test_a_missing_value_that_is_written_as_text(value: str, tmp_path: Path) -> None:
    text = table(["a|b", value, "a"])
    with pytest.raises(BadInputError, match=r"line 3: 'labels' is .*--options\.separator"):
        read(tmp_path / "a.csv", text)
    assert value in read(tmp_path / "a.csv", text, separator="|")[0]


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        (["joy|love", "joy,love", "joy"], "'joy,love'.*--options.separator comma"),
        (["joy", "anger", "joy anger", "anger joy"], "--options.separator space"),
        (["a/b", "b/c", "a/c", "a/b/c"], "--options.separator /"),
        (["joy", "very happy", "new york"], ""),
        (["Food, drink|Art", "Art"], ""),
        (["['a', 'b']", "['a,b']"], ""),
    ],
)
def test_names_that_look_like_several_labels(
    values: list[str], asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path / "a.csv", table(values))
    report = capsys.readouterr().err
    assert ("one label?" in report) == bool(asked)
    assert re.search(asked, report)


def test_an_empty_set_of_python(tmp_path: Path) -> None:
    values = ["set()", "{'joy'}", "{'joy', 'anger'}"]
    sets: Sets = [(), ("joy",), ("anger", "joy")]
    assert read(tmp_path / "a.csv", table(values)) == (["anger", "joy"], sets)


def test_vectors_have_the_order_of_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, path = MultiLabel(), tmp_path / "a.jsonl"
    path.write_text(rows([[1, 0, 1], [0, 1, 0], [0, 0, 0]]), "utf-8")
    examples = task.read(str(path), Columns(), labeled=True)
    named = task.matched(examples, ["c", "a", "b"])
    assert [example.labels for example in named] == [("c", "b"), ("a",), ()]
    assert "c, a, b" in capsys.readouterr().err
    assert task.matched(examples, ["2", "0", "1"]) == examples
    with pytest.raises(BadInputError, match=r"line 1: .*3 values.*2 labels .a, b."):
        task.matched(examples, ["a", "b"])
    path.write_text(rows([["a"], ["b"]]), "utf-8")
    lists = task.read(str(path), Columns(), labeled=True)
    assert task.matched(lists, ["a", "b", "c"]) == lists
    assert task.matched([], ["a"]) == []


@pytest.mark.parametrize(
    ("labels", "classes", "remedy"),
    [
        (["0", "1"], ["bad", "good"], "write the names"),
        (["bad", "good"], ["0", "1"], "write the numbers"),
        (["Good", "good"], ["bad", "good"], "as the model does: good"),
        (["1.0", "0"], ["0", "1"], "as the model does: 1"),
        (["0", "1"], ["LABEL_0", "LABEL_1"], "id2label"),
        (["new", "good"], ["bad", "good"], "remove the row"),
    ],
)
def test_the_cause_of_an_unknown_label_is_named(
    labels: list[str], classes: list[str], remedy: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "a.csv"
    for task, column in ((Classification(), "label"), (MultiLabel(), "labels")):
        path.write_text(table(labels, column), "utf-8")
        examples = task.read(str(path), Columns(), labeled=True)
        with pytest.raises(BadInputError, match=f"line 2: label .*{remedy}"):
            task.features(examples, tokenizer, 16, classes)
