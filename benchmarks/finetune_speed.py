"""Compare the cost of whole fine-tuning commands: bert-jax, another checkout of it, and Trainer.

    python benchmarks/task_data.py ../shared/data TASKS       # or files of your own
    git worktree add ../before COMMIT
    python benchmarks/finetune_speed.py MODEL TASKS --before ../before --names trec qnli wikiann

MODEL is a Hugging Face folder. All sides run the same examples, epochs, batch size and most tokens,
in turns; the compilation caches of bert-jax are empty in the first round only, so the medians of
three rounds or more are those of warm runs. The Trainer pads each batch to its longest row; its
variants are those of ``--peers``. Needs the extra ``parity`` and accelerate.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from whole_commands import FOLDER, ROOT, Side, bert_jax, compare

# Task -> kind, most tokens, most training rows (0 = all), epochs.
TASKS = {
    "trec": ("classification", 64, 0, 3),
    "qnli": ("classification", 128, 3600, 3),
    "polarity": ("classification", 64, 0, 3),
    "wikiann": ("tagging", 128, 2000, 3),
}
PEERS = {
    "float32": [],
    "float32, by length": ["--by-length"],
    "bfloat16": ["--bfloat16"],
    "bfloat16, by length": ["--bfloat16", "--by-length"],
    "bfloat16, compiled": ["--bfloat16", "--compile"],
}


def main() -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--names", nargs="+", default=["trec", "qnli", "wikiann"], choices=TASKS)
    parser.add_argument("--before", type=Path, help="another checkout of bert-jax")
    parser.add_argument("--peers", nargs="*", default=["float32", "bfloat16"], choices=PEERS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="instead of those of the task")
    parser.add_argument("--rows", type=int, default=0, help="most training rows of every task")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            compare(name, sides(name, Path(folder), options), options.rounds)


def sides(name: str, folder: Path, options: argparse.Namespace) -> list[Side]:
    """Return the commands of a task; `folder` is for its rows and for compilation caches."""
    kind, length, most, epochs = TASKS[name]
    most = min(options.rows or most, most or options.rows)
    (source,) = (options.tasks / name).glob("train.*")
    rows = folder / f"{name}{source.suffix}"
    shutil.copy(source, rows)
    if most:
        ends = "\n\n" if kind == "tagging" else "\n"  # of a row
        kept = source.read_text("utf-8").split(ends)[: most + (kind != "tagging")]
        rows.write_text(ends.join(kept) + ends, "utf-8")
    model = str(options.model.absolute())
    words = ["finetune", kind, "--init", model, "--run-dir", f"{FOLDER}/run"]
    words += ["--data.train", str(rows), "--data.length", str(length), "--train.batch_size", "32"]
    words += ["--train.epochs", str(options.epochs or epochs), "--model.dtype"]
    trees = {"before": options.before.absolute()} if options.before else {}
    trees["bert-jax"] = ROOT
    made = [
        bert_jax(f"{side}, {dtype}", tree, folder, *words, dtype)
        for dtype in options.dtypes
        for side, tree in trees.items()
    ]
    if kind == "tagging":
        return made
    peer = [sys.executable, str(ROOT / "benchmarks/trainer_peer.py")]
    peer += [
        model,
        str(rows),
        FOLDER,
        "--length",
        str(length),
        "--epochs",
        str(options.epochs or epochs),
    ]
    return made + [
        Side(f"Trainer, {variant}", [*peer, *PEERS[variant]]) for variant in options.peers
    ]


if __name__ == "__main__":
    main()
