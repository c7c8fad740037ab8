"""Small generated texts, so that the examples run without a download; use your own instead."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

NAMES = ("Anna", "Boris", "Clara", "David", "Emma", "Felix", "Greta", "Hugo")
PLACES = ("Oslo", "Paris", "Lima", "Cairo", "Delhi", "Quito", "Dakar", "Hanoi")
THINGS = ("boat", "lamp", "film", "book", "song", "meal", "room", "coat")
GOOD = ("lovely", "bright", "clever", "warm", "splendid", "charming")
BAD = ("dull", "broken", "noisy", "cold", "dreadful", "tiring")


def sentence(rng: random.Random, praise: bool) -> list[tuple[str, str]]:
    """Return the words of a sentence with their tags."""
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    adjective, thing = rng.choice(GOOD if praise else BAD), rng.choice(THINGS)
    tags = {name: "B-PER", place: "B-LOC"}
    words = rng.choice(
        (
            f"{name} found a {adjective} {thing} in {place} .",
            f"In {place} the {thing} was {adjective} , says {name} .",
            f"The {thing} that {name} bought in {place} is {adjective} .",
        )
    )
    return [(word, tags.get(word, "O")) for word in words.split()]


def text(path: Path, documents: int = 150) -> Path:
    """Write a corpus: a sentence per line, a blank line between documents of one sentiment."""
    rng = random.Random(0)  # noqa: S311
    lines = []
    for _ in range(documents):
        praise = rng.random() < 0.5
        lines += [" ".join(w for w, _ in sentence(rng, praise)) for _ in range(6)] + [""]
    return write_text(path, "\n".join(lines))


def reviews(path: Path, rows: int, seed: int) -> Path:
    """Write a CSV file with the columns text and label."""
    rng = random.Random(seed)  # noqa: S311
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        for number in range(rows):
            words = " ".join(word for word, _ in sentence(rng, number % 2 == 0))
            table.writerow((words, "good" if number % 2 == 0 else "bad"))
    return path


def tagged(path: Path, rows: int, seed: int) -> Path:
    """Write a CoNLL file: a word and its tag per line, a blank line after each sentence."""
    rng = random.Random(seed)  # noqa: S311
    sentences = [sentence(rng, number % 2 == 0) for number in range(rows)]
    blocks = ["\n".join(f"{word} {tag}" for word, tag in words) for words in sentences]
    return write_text(path, "\n\n".join(blocks) + "\n")


def inputs(path: Path, texts: list[str]) -> Path:
    """Write texts as a JSON Lines file for the prediction of a fine-tuned model."""
    return write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_text(path: Path, content: str) -> Path:
    """Write a file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    return path
