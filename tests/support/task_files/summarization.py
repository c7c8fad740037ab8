"""Documents whose summary is the sentence with milk."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import fmean

from support.task_files.task_files import (
    OTHER_WORDS,
    Expected,
    TaskFiles,
    json_lines,
    read_json_lines,
    write_json_lines,
)

_TEXT = "A story of “words”, the 3rd.\nIt has two lines.\n\nAnother one, hélas.\n"
SAMPLES = {
    "a.jsonl": json_lines(
        {"document": _TEXT, "summary": "Two lines.", "id": "x"},
        {"document": ["One.", "Two."], "summary": "One."},
    )
}


def write(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    records = []
    for _ in range(count):
        sentences = [" ".join(rng.choices(OTHER_WORDS, k=4)) for _ in range(3)]
        sentences[rng.randrange(3)] = "the man and milk"
        records.append({"document": sentences, "summary": "the man and milk"})
    return write_json_lines(path, records)


FILES = TaskFiles(
    write,
    "jsonl",
    "rouge1",
    0.4,
    classes=("score",),
    # The server splits a text into sentences by its lines.
    requests=lambda path: [
        {"text": "\n".join(record["document"])} for record in read_json_lines(path)
    ],
    expected=lambda path: [
        Expected(" ".join(record["document"]), record["summary"])
        for record in read_json_lines(path)
    ],
    column="document",
    predicted=lambda record: record["summary"],
    probability=lambda record: fmean(record["scores"]),
)
