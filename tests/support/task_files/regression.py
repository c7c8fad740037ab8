"""Texts with the number of their mentions of milk."""

from __future__ import annotations

import random
from pathlib import Path

from support.task_files.task_files import WORDS, Expected, TaskFiles, read_csv, write_csv

SAMPLES = {"a.tsv": "sentence1\tsentence2\tlabel\na\tb\t1.5\nc\td\t2\n"}


def write(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    rows = [rng.choices([*WORDS[:2], "milk"], k=6) for _ in range(count)]
    return write_csv(path, [(" ".join(words), words.count("milk")) for words in rows])


FILES = TaskFiles(
    write,
    "csv",
    "pearson",
    0.8,
    classes=("score",),
    requests=lambda path: [{"text": text} for text, _ in read_csv(path)],
    expected=lambda path: [Expected(text, label) for text, label in read_csv(path)],
    column="text",
    predicted=lambda record: f"{record['value']:.4g}",
)
