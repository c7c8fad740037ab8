"""Compare the cost of whole inference commands: bert-jax, another checkout of it, and its peers.

    python benchmarks/task_data.py ../shared/data TASKS       # or files of your own
    git worktree add ../before COMMIT
    python benchmarks/inference.py MODEL CLASSIFIER TASKS --before ../before

MODEL is a Hugging Face folder, CLASSIFIER a classifier that was fine-tuned from it on a task of
TASKS and exported to Hugging Face. Vectors of sentences are compared with sentence-transformers,
predictions with transformers on batches of similar length, and one masked word with its pipeline.
All sides run in turns; see whole_commands.py. bert-jax computes as the model is stored (float32)
and in bfloat16. Needs the extra ``parity`` and sentence-transformers; its ONNX backend wants an
older transformers, and so another environment (``--onnx-python``).
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
    parser.add_argument("--onnx-python", help="Python with sentence-transformers[onnx]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for title, words, peer in works(Path(name), options):
            compare(title, list(sides(Path(name), words, peer, options)), options.rounds)


def sides(
    folder: Path, words: list[str], peer: list[str], options: argparse.Namespace
) -> Iterator[Side]:
    """Yield the commands of a work; `folder` is for compilation caches."""
    if options.before:
        yield bert_jax("before", options.before.absolute(), folder, *words)
    yield bert_jax("bert-jax", ROOT, folder, *words)
    if words[0] != "fill-mask":
        yield bert_jax("bert-jax, bfloat16", ROOT, folder, *words, "--dtype", "bfloat16")
    if options.no_peers:
        return
    script = str(ROOT / "benchmarks/inference_peers.py")
    yield Side(f"peer, {peer[0]}", [sys.executable, script, *peer])
    if options.onnx_python and peer[0] == "encode":
        yield Side("peer, encode-onnx", [options.onnx_python, script, "encode-onnx", *peer[1:]])


def works(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield title, command of bert-jax and arguments of the peer; `folder` is for the inputs."""
    import transformers

    classifier, model = str(options.classifier.absolute()), str(options.model.absolute())
    masked, text = folder / "masked", "Paris is the [MASK] of France."
    # The head of a model without one is new: it costs the same.
    transformers.BertForMaskedLM.from_pretrained(model).save_pretrained(masked)
    transformers.AutoTokenizer.from_pretrained(model).save_pretrained(masked)
    (folder / "masked.json").write_text(json.dumps([text]), "utf-8")
    peer = ["fill-mask", str(masked), str(folder / "masked.json")]
    yield "fill-mask", ["fill-mask", str(masked), text], peer
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
