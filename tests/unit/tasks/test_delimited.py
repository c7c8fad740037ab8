"""Tables of fields between commas, tabs and semicolons, as programs and people write them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.classification import Classification
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.tables.read import read
from pipelines.tasks.task import Columns

TEXTS = ['the "cat"', "two\nlines", "a\ttab", "plain"]


def rows(path: Path, text: str | bytes, **bad_rows: Any) -> list[tuple[str, ...]]:
    """Write a file and return the values of its rows."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    table = read(str(path), Columns(), BadRows(**bad_rows))
    return [tuple(row.values()) for row in table.rows]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_tables_with_tabs_are_recognized(
    quoting: Any, end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `DataFrame.to_csv(sep="\\t")` writes them, which uses the module csv."""
    file = tmp_path / "a.tsv"
    for texts in ([*TEXTS], TEXTS[:1], TEXTS[1:2], TEXTS[2:3]):
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, delimiter="\t", quoting=quoting, lineterminator=end)
            writer.writerows([("text", "label"), *((text, 1) for text in texts)])
        assert rows(file, file.read_bytes()) == [(text, "1") for text in texts]
        assert "quotes enclose fields" in capsys.readouterr().err


@pytest.mark.parametrize(
    "lines",
    [
        ['"a fine film', 'and a joy"'],  # a quotation over two rows
        ['"whole"', "plain"],
        ['"a" b', '"c"'],
        ['say "this"', '"that"'],
        ['""', "x"],
    ],
)
def test_stray_quotes_belong_to_the_text(lines: list[str], tmp_path: Path) -> None:
    text = "sentence\tlabel\n" + "".join(f"{line}\t1\n" for line in lines)
    assert rows(tmp_path / "a.tsv", text) == [(line, "1") for line in lines]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "text;label\nfine, really;1\n", [("fine, really", "1")]),
        ("a.csv", "sep=;\ntext;label\nfine;1\n", [("fine", "1")]),
        ("a.csv", "comment;stars\nfine;1\nbad;2\n", [("fine", "1"), ("bad", "2")]),
        ("a.csv", "text\tlabel\nfine, really\t1\n", [("fine, really", "1")]),
        ("a.tsv", 'text,label\n"a, b",1\n', [("a, b", "1")]),
        ("a.csv", "text\nfine; really\n", [("fine; really",)]),
        ("a.csv", 'text,label\n"say \\"hi\\", now",1\n', [('say "hi", now', "1")]),  # Spark
        ("a.csv", ",text,label\n0,fine,1\n", [("0", "fine", "1")]),  # pandas
        ("a.csv", "text,label,,\nfine,1,,\n", [("fine", "1", "", "")]),  # Excel
        ("a.tsv", "text\tlabel\n1\tfine\tx\n", [("1", "fine", "x")]),  # R
        ("a.tsv", '"text"\t"label"\n"1"\t"a \\"b\\""\t"x"\n', [("1", 'a "b"', "x")]),
        # The STS benchmark: its .csv has tabs, and commas in texts.
        ("a.csv", "text\tlabel\na, b\tx\n", [("a, b", "x")]),
        ("a.csv", "text|label\na, b|1\nc|2\n", [("a, b", "1"), ("c", "2")]),
        ("a.tsv", "text\tlabel\rfine\t1\r", [("fine", "1")]),  # old Mac
        ("a.tsv", "text\tlabel\r\r\nfine\t1\r\r\n", [("fine", "1")]),  # Windows, converted twice
        ("a.tsv", "text\tlabel\nthe cat\ris good\tpos\n", [("the cat is good", "pos")]),
        ("a.csv", "text,label\nthe cat\ris good,pos\n", [("the cat is good", "pos")]),
        ("a.txt", "text\tlabel\na\u2028b\x0bc\t1\n", [("a\u2028b\x0bc", "1")]),
    ],
)  # fmt: skip
def test_tables_of_other_programs(
    name: str, text: str, expected: list[tuple[str, ...]], tmp_path: Path
) -> None:
    assert rows(tmp_path / name, text) == expected


AG = '"3","Wall St.","Short-sellers are back"\n"1","Oil","a ""new"" pipeline"\n"3","Jobs","none"\n'


def test_columns_are_named_by_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.csv"
    file.write_text(AG)
    examples = Classification().read(
        str(file), Columns(text="2", pair="3", label="1"), labeled=True
    )
    assert [(row.text, row.pair, row.label) for row in examples] == [
        ("Wall St.", "Short-sellers are back", "3"),
        ("Oil", 'a "new" pipeline', "1"),
        ("Jobs", "none", "3"),
    ]
    assert examples[0].where == f"{file}, line 1"
    assert "no header; columns by number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "columns", "names", "count"),
    [
        ("0,1,2\na b,c d,3\ne,f,4\n", Columns(text="1", label="2"), ["0", "1", "2"], 2),
        ("text,label\na b,c\nd,e\n", Columns(text="1", label="2"), ["1", "2"], 2),
        ("comment,x\na b,c\nd,e\n", Columns(text="comment", label="2"), ["comment", "2"], 2),
        ("3,a b\n2,c d\n3,e f\n", Columns(text="2", label="1"), ["1", "2"], 3),
        ("2,a b\n1,c d\n2,e f\n", Columns(text="2", label="1"), ["1", "2"], 3),
        ("1,2\n1,c d\n2,e f\n", Columns(text="2"), ["1", "2"], 2),
        ("text,a b\ntext,c d\nspam,e f\n", Columns(text="2", label="1"), ["1", "2"], 3),
    ],
)
def test_numbers_are_names_or_positions(
    text: str, columns: Columns, names: list[str], count: int, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(text)
    table = read(str(file), columns)
    assert (table.columns, len(table.rows)) == (names, count)


def test_commas_of_texts_do_not_divide_a_file_of_texts(tmp_path: Path) -> None:
    file = tmp_path / "new.txt"
    file.write_text("fine, really\nbad, not good\n")
    examples = Classification().read(str(file), Columns(text="1"), labeled=False)
    assert [row.text for row in examples] == ["fine, really", "bad, not good"]


def test_a_file_without_header_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    for text in (AG, "0,a b,0\n1,c d,1\n"):
        file.write_text(text)
        with pytest.raises(BadInputError, match=r"number.*columns\.text [23]"):
            Classification().read(str(file), Columns(), labeled=True)
    with pytest.raises(BadInputError, match="no column '4'; its columns are 1, 2, 3"):
        Classification().read(str(file), Columns(text="4", label="1"), labeled=True)


RAGGED = "text\tlabel\na\tx\nb\nc\ty\nd\te\tz\n"


def test_ragged_lines_are_refused_or_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.tsv"
    with pytest.raises(BadInputError, match=r"line 3 has 1 columns.*line break.*bad_rows"):
        rows(file, RAGGED)
    with pytest.raises(BadInputError, match=r"line 4 has 3 columns.*tabs.*bad_rows"):
        rows(file, RAGGED.replace("b\n", ""))
    assert rows(file, RAGGED, skip=True, most=0.5) == [("a", "x"), ("c", "y")]
    assert "2 rows skipped: not readable (lines 3, 5)" in capsys.readouterr().err
    with pytest.raises(BadInputError, match=r"2 of 4 rows .*lines 3, 5.*max_bad"):
        rows(file, RAGGED, skip=True)
    quotes = 'text,label\na,x\n"b" c,y\nd,z\n'
    assert rows(tmp_path / "a.csv", quotes, skip=True, most=0.5) == [("a", "x"), ("d", "z")]
    table = read(str(tmp_path / "a.csv"), Columns(), BadRows(skip=True, most=0.5))
    assert table.ids("") == ["0", "2"]
    with pytest.raises(BadInputError, match="end of data"):  # it encloses all other lines
        rows(tmp_path / "a.csv", 'text,label\na,x\n"b,y\nc,z\n', skip=True, most=1.0)


def test_cola_is_recognized_by_all_of_its_lines(tmp_path: Path) -> None:
    lines = "gj04\t1\t\tfine\nad03\t0\t??\tbad\n"
    read_rows = rows(tmp_path / "a.tsv", lines)
    assert read_rows == [("gj04", "1", "", "fine"), ("ad03", "0", "??", "bad")]
    ragged = rows(tmp_path / "a.tsv", f"{lines}gj04\t1\n", skip=True, most=0.5)
    assert ragged == read_rows
    with_other = rows(tmp_path / "a.tsv", f"{lines}x\t2\t\tother\n")
    assert len(with_other) == 2


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("the old cat is near the house\nthe dog\n", "1"),
        ("7\tgood\tthe old cat is here\n8\ta\tb\n", "3"),
    ],
)
def test_a_file_without_a_header_names_the_number_of_its_text(
    text: str, number: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text(text, "utf-8")
    task = Classification()
    with pytest.raises(BadInputError, match=rf"columns\.text {number} \(predict"):
        task.read(str(file), Columns(), labeled=False)
    assert len(task.read(str(file), Columns(text=number, pair="none"), labeled=False)) == 2
