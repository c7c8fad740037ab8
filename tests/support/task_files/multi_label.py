"""Texts with any of the labels drink, food and place; each label is one word."""

from __future__ import annotations

import random
from pathlib import Path

from support.task_files.task_files import (
    Expected,
    TaskFiles,
    json_lines,
    read_json_lines,
    write_json_lines,
)

WORDS = {"milk": "drink", "cab": "food", "store": "place"}
OTHERS = ["the", "man", "and", "in", "a", "on"]

SAMPLES = {
    "a.jsonl": json_lines(
        {"text": "one, two", "labels": ["x", "y"]},
        {"text": "three", "labels": []},
        {"text": "four", "labels": "['x']"},
    ),
    "b.csv": "text,genres\none,x|y\ntwo,\nthree,z\n",
    "f.csv": "text,genres\none,\"['x', 'z']\"\ntwo,[]\n",
    "c.csv": "id,text,x,y\n0,one,1,0\n1,two,0,1\n2,three,-1,-1\n",
    "d.jsonl": json_lines(
        {"text": "one", "labels": [0, 1, 0]}, {"text": "two", "labels": [1, 1, 0]}
    ),
    "e.jsonl": json_lines(
        {"text": "one", "labels": {"x": 1, "z": 0}}, {"text": "two", "labels": {"x": 0, "z": 1}}
    ),
}


def write(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    rows = []
    for number in range(count):
        chosen = [word for bit, word in enumerate(WORDS) if number >> bit & 1]
        words = chosen + rng.choices(OTHERS, k=6 - len(chosen))
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "labels": sorted(WORDS[word] for word in chosen)})
    return write_json_lines(path, rows)


FILES = TaskFiles(
    write,
    "jsonl",
    "macro_ap",
    0.8,
    classes=("drink", "food", "place"),
    requests=lambda path: [{"text": row["text"]} for row in read_json_lines(path)],
    expected=lambda path: [
        Expected(
            row["text"],
            ", ".join(row["labels"]) or "(no label)",
            tuple(row["labels"]) or ("(no label)",),
            answer=row["labels"],
        )
        for row in read_json_lines(path)
    ],
    column="text",
    predicted=lambda record: (
        ", ".join(f"{name} ({record['probabilities'][name]:.1%})" for name in record["labels"])
        or "(no label)"
    ),
    answer=lambda record: record["labels"],
)
