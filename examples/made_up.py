"""Small texts for the examples, so that they run without a download; use your own instead."""

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
    """Words with their tags."""
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    adjective, thing = rng.choice(GOOD if praise else BAD), rng.choice(THINGS)
    tagged = {name: "B-PER", place: "B-LOC"}
    words = rng.choice(
        (
            f"{name} found a {adjective} {thing} in {place} .",
            f"In {place} the {thing} was {adjective} , says {name} .",
            f"The {thing} that {name} bought in {place} is {adjective} .",
        )
    )
    return [(word, tagged.get(word, "O")) for word in words.split()]


def text(path: Path, documents: int = 150) -> Path:
    """A corpus: a sentence per line, a blank line between documents of one mood."""
    rng = random.Random(0)  # noqa: S311
    lines = []
    for _ in range(documents):
        praise = rng.random() < 0.5
        lines += [" ".join(w for w, _ in sentence(rng, praise)) for _ in range(6)] + [""]
    return written(path, "\n".join(lines))


def reviews(path: Path, rows: int, seed: int) -> Path:
    """A CSV file with the columns text and label."""
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
    """A CoNLL file: a word and its tag per line, a blank line after each sentence."""
    rng = random.Random(seed)  # noqa: S311
    sentences = [sentence(rng, number % 2 == 0) for number in range(rows)]
    blocks = ["\n".join(f"{word} {tag}" for word, tag in words) for words in sentences]
    return written(path, "\n\n".join(blocks) + "\n")


def inputs(path: Path, texts: list[str]) -> Path:
    """A JSON Lines file that a fine-tuned model can be asked about."""
    return written(path, "".join(json.dumps({"text": one}) + "\n" for one in texts))


def written(path: Path, content: str) -> Path:
    """Writes a file and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    return path
