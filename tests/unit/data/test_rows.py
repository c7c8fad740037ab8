"""Sources of rows: fields, groups, pieces and damaged files."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.corpora import open_corpus
from pipelines.data.sources.locations import File
from pipelines.data.sources.registry import open_source
from pipelines.data.sources.rows import BadRowError, Fields
from pipelines.data.sources.tables import RowPiece, Table
from pipelines.data.store.prepare import prepare
from support.commands import ROOT
from support.row_files import WRITERS, write_jsonl, write_parquet

# Documents of 1, 2, 3 … rows, so that groups cross every boundary of batches and pieces.
ROWS = [
    {"text": f"Row {row} of {document}.\nIt is \u00e9.", "doc": f"d{document}"}
    for document in range(12)
    for row in range(document % 5 + 1)
]
each = pytest.mark.parametrize("scheme", WRITERS)


def documents(spec: str, size: int = 10**9) -> list[list[str]]:
    groups = [group for group, _ in open_source(spec).pieces(size)]
    pieces = [pickle.loads(pickle.dumps(piece)) for group in groups for piece in group]  # noqa: S301
    return [document for piece in pieces for document in piece.documents()]


def outcome(spec: str) -> list[list[str]]:
    """Return the documents, none if the file is refused by its name."""
    try:
        return documents(spec)
    except BadInputError as error:
        if "/a." not in str(error):
            raise
        return []


@each
def test_every_row_is_a_document(scheme: str, tmp_path: Path) -> None:
    spec = WRITERS[scheme](tmp_path, ROWS)
    for size in (1, 100, 700, 10**9):
        assert documents(spec, size) == [row["text"].split("\n") for row in ROWS]


@each
def test_rows_with_one_key_are_one_document(scheme: str, tmp_path: Path) -> None:
    spec = f"{WRITERS[scheme](tmp_path, ROWS)}#text@doc"
    expected = [
        [line for row in ROWS if row["doc"] == f"d{document}" for line in row["text"].split("\n")]
        for document in range(12)
    ]
    for size in (1, 40, 100, 333, 700, 10**9):
        assert documents(spec, size) == expected, size


@each
def test_a_wrong_field_is_named_with_the_right_ones(scheme: str, tmp_path: Path) -> None:
    spec = WRITERS[scheme](tmp_path, ROWS)
    for fields in ("#body", "#text@page"):
        with pytest.raises(BadInputError, match=r"(body|page)'.*text") as error:
            documents(f"{spec}{fields}")
        assert "doc" in str(error.value)


@pytest.mark.parametrize("scheme", ["parquet", "arrow", "json", "jsonl"])
def test_nested_fields(scheme: str, tmp_path: Path) -> None:
    rows = [{"page": {"body": row["text"], "id": row["doc"]}, "text": 1} for row in ROWS]
    spec = WRITERS[scheme](tmp_path, rows)
    assert documents(f"{spec}#page.body") == [row["text"].split("\n") for row in ROWS]
    assert len(documents(f"{spec}#page.body@page.id", 100)) == 12


@each
@pytest.mark.parametrize("damage", ["cut", "half", "flip", "empty"])
def test_damaged_files(scheme: str, damage: str, tmp_path: Path) -> None:
    spec = WRITERS[scheme](tmp_path, ROWS * 40)
    (path,) = tmp_path.glob(f"a.{scheme}")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    else:
        del content[{"cut": len(content) - 5, "half": len(content) // 2 + 3, "empty": 0}[damage] :]
    path.write_bytes(content)
    # An empty file of records has no rows, and prepare refuses an empty corpus. Parquet and Arrow
    # have no checksums by default, so a flipped byte of a text changes the text.
    if damage == "empty" or (scheme in ("parquet", "arrow") and damage == "flip"):
        assert len(outcome(spec)) <= len(ROWS) * 40
        return
    with pytest.raises(BadInputError, match=path.name):
        documents(spec)


@each
def test_a_folder_and_nothing(scheme: str, tmp_path: Path) -> None:
    for location in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInputError):
            documents(f"{scheme}:{location}")


def test_an_unknown_split_and_a_lost_file(tmp_path: Path) -> None:
    spec = WRITERS["arrow"](tmp_path, ROWS)
    with pytest.raises(BadInputError, match="no split 'test'"):
        documents(f"{spec}:test")
    (tmp_path / "a.arrow").unlink()
    with pytest.raises(BadInputError, match="lists 1 files"):
        documents(spec)


def test_bad_rows_do_not_break_groups(tmp_path: Path) -> None:
    spec = write_jsonl(tmp_path, [{**ROWS[3], "text": text} for text in ("A.", None, "B.")])
    bad: list[str] = []
    corpus = open_corpus(f"{spec}#text@doc")
    (block,) = corpus.blocks(0)
    assert list(block.documents(lambda position, _: bad.append(position))) == [["A.", "B."]]
    assert bad == [f"{tmp_path}/a.jsonl, line 2"]


@pytest.mark.parametrize("scheme", ["parquet", "arrow"])
def test_a_column_of_text_that_is_not_utf8_is_a_bad_row(scheme: str, tmp_path: Path) -> None:
    spec = WRITERS[scheme](tmp_path, ROWS)
    (path,) = tmp_path.glob(f"a.{scheme}")
    if scheme == "parquet":
        table = pyarrow.Table.from_pylist(ROWS)
        pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    assert content.count(b"Row 0 of 7") == 1
    path.write_bytes(content.replace(b"Row 0 of 7", b"Row \xe9 of 7"))
    bad: list[str] = []
    (block,) = open_corpus(spec).blocks(0)
    kept = list(block.documents(lambda position, reason: bad.append(f"{position}: {reason}")))
    assert len(kept) == len(ROWS) - 1
    assert len(bad) == 1
    assert "row 19: " in bad[0]


PEAK = """
import resource, sys
from pipelines.data.sources.registry import open_source
import pyarrow.parquet
source = open_source(sys.argv[1])
groups = [group for group, _ in source.pieces(1 << 24)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for group in groups for piece in group for _ in piece.documents())
print(len(groups), count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_a_large_row_group_is_read_in_parts(tmp_path: Path) -> None:
    """A row group of 256 MiB is divided into blocks, and read in bounded memory."""
    rows = [{"text": f"{number:07} {'words of a text ' * 64}"} for number in range(1 << 18)]
    spec = write_parquet(tmp_path, rows, row_group_size=len(rows))
    read = subprocess.run(
        [sys.executable, "-c", PEAK, spec], cwd=ROOT, capture_output=True, text=True, check=True
    )
    blocks, count, mebibytes = map(int, read.stdout.split())
    assert blocks > 1
    assert count == len(rows)
    assert mebibytes < 150


def test_a_nested_field_is_named_as_a_whole(tmp_path: Path) -> None:
    spec = write_jsonl(tmp_path, [{"page": {"body": "A."}, "a.b": "B."}])
    assert documents(f"{spec}#a.b") == [["B."]]
    with pytest.raises(BadInputError, match=r"'page\.text'"):
        documents(f"{spec}#page.text")


@each
def test_empty_texts_are_counted(scheme: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"] if number % 3 else ""} for number, row in enumerate(ROWS)]
    (tmp_path / "data").mkdir()
    spec = WRITERS[scheme](tmp_path / "data", rows)
    ledger = prepare([spec], tokenizer_dir, tmp_path / "store", 0.0, deduplicate=False)
    assert ledger.counts["read"] == len(rows)
    assert ledger.counts["empty"] == sum(not row["text"] for row in rows)


def test_a_bad_row_between_two_pieces_repeats_nothing(tmp_path: Path) -> None:
    rows = [
        {"text": "A 0.", "doc": "a"}, {"text": "?", "doc": "a"}, {"text": "A 2.", "doc": "a"},
        {"text": None, "doc": "b"}, {"text": "B 4.", "doc": "b"}, {"text": "C 5."},
    ]  # fmt: skip
    table = BrokenTable(File(f"{tmp_path}/a", 1), tuple(rows))
    for cut in range(1, len(rows)):
        bad: list[str] = []
        pieces = [
            RowPiece(table, Fields("text", "doc"), *ends) for ends in ((0, cut), (cut, len(rows)))
        ]
        found = [
            document
            for piece in pieces
            for document in piece.documents(lambda position, _, bad=bad: bad.append(position))
        ]
        assert found == [["A 0.", "A 2."], ["B 4."]], cut
        assert [position[-5:] for position in bad] == ["row 2", "row 4", "row 6"], cut


@dataclass(frozen=True)
class BrokenTable(Table):
    """Rows in memory; the text "?" stands for a row that cannot be parsed."""

    all_rows: tuple[dict[str, Any], ...]

    def count(self) -> int:
        return len(self.all_rows)

    def rows(self, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
        for row in self.all_rows[start:end]:
            yield BadRowError("broken") if row["text"] == "?" else row


def test_a_stream_that_is_cut_between_batches_is_refused(tmp_path: Path) -> None:
    spec = WRITERS["arrow"](tmp_path, ROWS)
    content = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(content[:-8])
    with pytest.raises(BadInputError, match="end is missing"):
        documents(spec)


def test_a_folder_may_have_the_characters_of_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"
    folder.mkdir()
    assert len(documents(WRITERS["arrow"](folder, ROWS))) == len(ROWS)
