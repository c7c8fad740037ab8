"""Compare the cost of whole inference commands: bert-jax, another checkout of it, and its peers.

    python benchmarks/task_data.py ../shared/data TASKS       # or files of your own
    git worktree add ../before COMMIT
    python benchmarks/inference.py MODEL CLASSIFIER TASKS --before ../before

MODEL is a Hugging Face folder, CLASSIFIER a classifier that was fine-tuned from it on a task of
TASKS and exported to Hugging Face. Vectors of sentences are compared with sentence-transformers,
predictions with transformers on batches of similar length. All sides compute in float32 and run in
turns; see whole_commands.py. Needs the extra ``parity`` and sentence-transformers.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from whole_commands import FOLDER, ROOT, Side, bert_jax, compare


def main() -> None:
    """Print a table for predictions and one for vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--before", type=Path, help="another checkout of bert-jax")
    parser.add_argument("--count", type=int, default=10_000, help="texts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for title, words, peer in works(Path(name), options):
            trees = {"before": options.before.absolute()} if options.before else {}
            trees["bert-jax"] = ROOT
            sides = [bert_jax(side, tree, Path(name), *words) for side, tree in trees.items()]
            if not options.no_peers:
                script = str(ROOT / "benchmarks/inference_peers.py")
                sides.append(Side(f"peer, {peer[0]}", [sys.executable, script, *peer]))
            compare(title, sides, options.rounds)


def works(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield title, command of bert-jax and arguments of the peer; `folder` is for the inputs."""
    classifier, model = str(options.classifier.absolute()), str(options.model.absolute())
    for task in ("polarity", "subjectivity"):
        texts = sentences(options.tasks / task, options.count)
        for_peer = folder / f"{task}.json"
        for_peer.write_text(json.dumps(texts), "utf-8")
        if task == "polarity":
            table = folder / "texts.csv"
            with table.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["text"], *([text] for text in texts)])
            words = ["predict", classifier, "--input", str(table), "--output", f"{FOLDER}/x.jsonl"]
            yield f"predict {len(texts):,}", words, ["predict", classifier, str(for_peer)]
        else:
            lines = folder / "texts.txt"
            lines.write_text("".join(f"{text}\n" for text in texts), "utf-8")
            words = ["extract-features", model, "--input", str(lines)]
            words += ["--output", f"{FOLDER}/x.npz"]
            yield f"vectors of {len(texts):,}", words, ["encode", model, str(for_peer)]


def sentences(folder: Path, count: int) -> list[str]:
    """Return the first texts of all parts of a task."""
    texts: list[str] = []
    for part in ("train", "validation", "test"):
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            texts += [record["text"] for record in csv.DictReader(file)]
    return texts[:count]


if __name__ == "__main__":
    main()
