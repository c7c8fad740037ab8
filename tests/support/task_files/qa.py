"""Questions whose answer is milk."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from support.task_files.task_files import OTHER_WORDS, Expected, TaskFiles


def _squad(version: str, *paragraphs: dict[str, Any]) -> str:
    return json.dumps({"version": version, "data": [{"title": "t", "paragraphs": paragraphs}]})


_ANSWERS = [{"text": "two lines", "answer_start": 9}]
_QUESTION = {"id": "a", "question": "What has it?", "answers": _ANSWERS, "is_impossible": False}
_IMPOSSIBLE = {"id": "b", "question": "Why?", "answers": [], "is_impossible": True}
SAMPLES = {
    "a.json": _squad(
        "v2.0", {"context": "It has a two lines rule.", "qas": [_QUESTION, _IMPOSSIBLE]}
    )
}


def write(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    paragraphs = []
    for number in range(count):
        words = rng.choices(OTHER_WORDS, k=6)
        words[rng.randrange(6)] = "milk"
        context = " ".join(words)
        answer = {"text": "milk", "answer_start": context.index("milk")}
        question = {"id": str(number), "question": "the man in?", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [question]})
    path.write_text(_squad("1.1", *paragraphs), "utf-8")
    return path


def _read(path: Path) -> list[tuple[str, str]]:
    """Return context and question of each paragraph."""
    paragraphs = json.loads(path.read_text("utf-8"))["data"][0]["paragraphs"]
    return [(paragraph["context"], paragraph["qas"][0]["question"]) for paragraph in paragraphs]


FILES = TaskFiles(
    write,
    "json",
    "exact",
    80.0,
    classes=("start", "end"),
    requests=lambda path: [
        {"question": question, "context": context} for context, question in _read(path)
    ],
    expected=lambda path: [
        Expected(context, "milk", ("an answer",), answer="milk") for context, _ in _read(path)
    ],
    column="passage",
    predicted=lambda record: record["answer"],
    probability=lambda record: record["probability"],
    answer=lambda record: record["answer"],
)
