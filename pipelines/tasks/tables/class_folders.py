"""Folders of texts, a folder for each class, as in the data set of movie reviews aclImdb."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from bert_jax.runtime.console import say
from pipelines.data.sources.locations import File, escaped, find
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.tables.table import Table
from pipelines.tasks.tables.text import text_of

_UNLABELED = "unsup"
_SPLITS = {"train", "dev", "val", "valid", "validation", "test", _UNLABELED}
TEXT = ".txt"


def texts_below(folder: str) -> list[File]:
    """List the texts in the folders of a folder: ``.txt``, or files without a suffix.

    There are none if the folders are splits instead of classes.
    """
    files = [file for file in find(f"{escaped(folder)}/*/*") if _is_text(file)]
    files = [file for file in files if file.suffix == TEXT] or files
    return files if {_class_of(file) for file in files} - _SPLITS else []


def _is_text(file: File) -> bool:
    return file.suffix == TEXT or not file.suffix or file.suffix[1:].isdecimal()


def read_texts(source: str, files: Sequence[File], labeled: bool, bad_rows: BadRows) -> Table:
    """Read files of a text each.

    Args:
        source: The folder.
        files: The files.
        labeled: Whether the names of their folders are labels.
        bad_rows: For the table.
    """
    used = [file for file in files if not labeled or _class_of(file) != _UNLABELED]
    used.sort(key=_natural)
    if ignored := len(files) - len(used):
        say(f"{source}: {ignored:,} texts in {_UNLABELED} are ignored: they have no label")
    rows = []
    for file in used:
        row = {"text": text_of(file).strip()}
        if labeled:
            row["label"] = _class_of(file)
        rows.append(row | {"id": "/".join(PurePosixPath(file.name).parts[-1 - labeled :])})
    columns = ["text", "label", "id"] if labeled else ["text", "id"]
    return Table(source, columns, rows, [file.name for file in used], {}, bad_rows)


def _class_of(file: File) -> str:
    return PurePosixPath(file.name).parts[-2]


def _natural(file: File) -> list[tuple[bool, int, str]]:
    """Sort 9.txt before 10.txt."""
    parts = re.split(r"(\d+)", file.name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
