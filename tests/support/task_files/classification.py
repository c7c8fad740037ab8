"""Texts with and without milk; a vocabulary of 70 is enough."""

from __future__ import annotations

import random
from pathlib import Path

from support.task_files.task_files import OTHER_WORDS, Expected, TaskFiles, read_csv, write_csv

SAMPLES = {"a.csv": 'text,label\n"one, two",x\nthree,y\n'}


def write(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    rows: list[tuple[str, object]] = []
    for number in range(count):
        words = rng.choices(OTHER_WORDS, k=6)
        if number % 2:
            words[rng.randrange(6)] = "milk"
        rows.append((" ".join(words), "drink" if number % 2 else "dry"))
    return write_csv(path, rows)


FILES = TaskFiles(
    write,
    "csv",
    "accuracy",
    0.9,
    classes=("dry", "wet"),
    requests=lambda path: [{"text": text} for text, _ in read_csv(path)],
    expected=lambda path: [
        Expected(text, label, (label,), answer=label) for text, label in read_csv(path)
    ],
    column="text",
    predicted=lambda record: record["label"],
    probability=lambda record: record["probabilities"][record["label"]],
    answer=lambda record: record["label"],
)
