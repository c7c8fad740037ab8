"""Readers of labeled data in the files and folders of other programs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from pipelines.tasks.classification import Classification
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.task import Columns
from support.labeled_files import GLUE, ROWS, save_to_disk, write_lines, write_parquet
from tools.drill import changes
from tools.drill.observed import Reader

_ROWS = [{"text": "a \u201cstory\u201d", "label": "x"}, {"text": "another", "label": "y"}]


def make_labeled(folder: Path) -> None:
    (folder / "hub").mkdir()
    write_parquet(folder / "hub" / "train-00000-of-00001.parquet", ROWS)
    save_to_disk(folder / "saved", {"train": ROWS})
    for label in ("pos", "neg"):
        (folder / "reviews" / label).mkdir(parents=True)
        (folder / "reviews" / label / "0_1.txt").write_text(f"a {label} text", "utf-8")
    (folder / "array.json").write_text(json.dumps(_ROWS), "utf-8")
    (folder / "split.json").write_text(
        json.dumps({"columns": ["text", "label"], "data": [["a", "x"], ["b", "y"]]}), "utf-8"
    )
    lines = "".join(f"{json.dumps(row)}\n" for row in _ROWS).encode()
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "quoted.tsv").write_text('text\tlabel\n"a ""b""\nc"\tx\nd\ty\n', "utf-8")
    (folder / "europe.csv").write_text("text;label\na, b;x\nc;y\n", "utf-8")
    for name in ("CoLA", "QQP"):
        write_lines(folder / f"{name}.tsv", GLUE[name]["train.tsv"])


def read_labeled(folder: Path) -> None:
    for bad_rows in (BadRows(), BadRows(skip=True, most=1.0)):
        task = Classification(bad_rows=bad_rows)
        for place in sorted(folder.iterdir()):
            examples = task.read(str(place), Columns(), labeled=True)
            assert examples
            task.classes(examples)


LABELED_READERS = (
    Reader("labeled tables", make_labeled, read_labeled, ("**/*",), (changes.bomb,)),
)
