"""Choices of which one ends with milk."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from support.task_files.task_files import (
    OTHER_WORDS,
    Expected,
    TaskFiles,
    json_lines,
    read_json_lines,
    write_json_lines,
)

_ENDINGS = {"context": "c", "ending0": "a", "ending1": "b", "label": 1}
SAMPLES = {
    "a.jsonl": json_lines(_ENDINGS, _ENDINGS),
    "b.jsonl": json_lines(_ENDINGS | {"choices": ["a", "b"]}),
}


def write(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    records = []
    for _ in range(count):
        right = rng.randrange(3)
        ends = [" ".join(rng.choices(OTHER_WORDS, k=3)) for _ in range(3)]
        ends[right] = f"{ends[right]} milk"
        records.append({"text": "the man", "choices": ends, "label": right})
    return write_json_lines(path, records)


def _expected(record: dict[str, Any]) -> Expected:
    right = record["label"]
    choices = " · ".join(f"{n}: {text}" for n, text in enumerate(record["choices"]))
    return Expected(choices, f"{right}: {record['choices'][right]}", (str(right),), answer=right)


FILES = TaskFiles(
    write,
    "jsonl",
    "accuracy",
    0.8,
    classes=("score",),
    requests=lambda path: [
        {"text": record["text"], "choices": record["choices"]} for record in read_json_lines(path)
    ],
    expected=lambda path: list(map(_expected, read_json_lines(path))),
    column="choices",
    predicted=lambda record: f"{record['label']}: {record['choice']}",
    probability=lambda record: record["probabilities"][record["label"]],
    answer=lambda record: record["label"],
)
