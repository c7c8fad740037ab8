"""Write a small labeled task: which library's documentation contains a sentence?

The sentences are from installed packages, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import ast
import csv
import random
from importlib import metadata
from pathlib import Path

from pipelines.data.sources.python_docs import prose

LIBRARIES = ("jax", "numpy", "scipy", "scikit-learn")


def main() -> None:
    """Write FOLDER/train.csv, dev.csv and test.csv with the columns text and label."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--per-library", type=int, default=700, help="sentences (default: 700)")
    options = parser.parse_args()
    rng = random.Random(0)  # noqa: S311
    rows = []
    for library in LIBRARIES:
        rows += [(text, library) for text in sentences(library, options.per_library, rng)]
    rng.shuffle(rows)
    tenth = len(rows) // 10
    write(options.folder / "dev.csv", rows[:tenth])
    write(options.folder / "test.csv", rows[tenth : 2 * tenth])
    write(options.folder / "train.csv", rows[2 * tenth :])
    print(
        f"{options.folder}: train.csv with {len(rows) - 2 * tenth:,} sentences,"
        f" dev.csv and test.csv with {tenth:,} each"
    )


def sentences(library: str, count: int, rng: random.Random) -> list[str]:
    """Return `count` sentences of its docstrings, from files in a random order."""
    candidates: dict[str, None] = {}
    files = sorted(metadata.files(library) or [], key=str)
    rng.shuffle(files)
    for file in files:
        if file.suffix != ".py" or "tests" in file.parts:
            continue
        for node in ast.walk(ast.parse(Path(str(file.locate())).read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                texts = prose(ast.get_docstring(node) or "")
                candidates |= dict.fromkeys(text for text in texts if not names_a_library(text))
        if len(candidates) > 3 * count:  # more than needed, so that no file is used completely
            break
    return rng.sample(list(candidates), count)


def names_a_library(text: str) -> bool:
    """Return True if the sentence contains a name that gives its label away."""
    lower = text.lower()
    return any(name in lower for name in ("jax", "numpy", "scipy", "scikit", "sklearn", "xla"))


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write a CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


if __name__ == "__main__":
    main()
