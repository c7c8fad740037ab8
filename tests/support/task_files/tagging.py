"""Sentences in which milk is an entity."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from support.task_files.task_files import WORDS, Expected, TaskFiles, json_lines

_RECORD = {"tokens": ["Ann", "met"], "tags": ["B-PER", "O"]}
SAMPLES = {
    "a.conll": "-DOCSTART- -X- O\n\nAnn NNP B-PER\nLee NNP I-PER\nmet VBD O\n\nRome NNP B-LOC\n",
    "a.jsonl": json_lines(_RECORD, _RECORD),
    "unlabeled.txt": "A story of “words”, the 3rd.\nIt has two lines.\n\nAnother one, hélas.\n",
}


def write(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    sentences = []
    for _ in range(count):
        words = rng.choices(WORDS, k=5)
        sentences.append("\n".join(f"{w} {'B-THING' if w == 'milk' else 'O'}" for w in words))
    path.write_text("\n\n".join(sentences) + "\n", "utf-8")
    return path


def _read(path: Path) -> list[tuple[str, list[str]]]:
    """Return text and tags of each sentence."""
    sentences = []
    for block in path.read_text("utf-8").strip().split("\n\n"):
        pairs = [line.split() for line in block.splitlines()]
        sentences.append((" ".join(word for word, _ in pairs), [tag for _, tag in pairs]))
    return sentences


def _expected(text: str, tags: list[str]) -> Expected:
    count = tags.count("B-THING")
    true = ", ".join(["THING milk"] * count) or "(no entity)"
    return Expected(text, true, ("THING",) * count, answer=tags)


def _predicted(record: dict[str, Any]) -> str:
    entities = [f"{e['label']} {e['text']} ({e['score']:.1%})" for e in record["entities"]]
    return ", ".join(entities) or "(no entity)"


FILES = TaskFiles(
    write,
    "conll",
    "f1",
    0.9,
    classes=("O", "B-THING", "I-THING", "B-PLACE", "I-PLACE"),
    requests=lambda path: [{"text": text} for text, _ in _read(path)],
    expected=lambda path: [_expected(*sentence) for sentence in _read(path)],
    column="words",
    predicted=_predicted,
    answer=lambda record: record["tags"],
)
