"""Compare the CPU time of `bert-jax prepare`, the bare tokenizer and google-research/bert.

    python benchmarks/prepare.py TEXT --tokenizer DIR [--workers 1 2]
        [--reference CHECKOUT --reference-python PYTHON --reference-vocab vocab.txt]

TEXT is a plain file with a paragraph per line and a blank line between documents. The reference is
a checkout of google-research/bert, in which `import tensorflow as tf` was replaced by
`import tensorflow.compat.v1 as tf`, and a Python with TensorFlow 2. It reads the same text, one
sentence per line, with its own vocabulary. Every measurement runs in a separate process. CPU time
is the user and system time of the process and its children. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import sys
from pathlib import Path
from pipelines.data.tokenizers import tokenizer
lines = [line for line in Path(sys.argv[1]).read_text("utf-8").split("\\n") if line]
loaded = tokenizer.load(Path(sys.argv[2]))
for start in range(0, len(lines), 256):
    loaded.encode(lines[start : start + 256])
"""
PREPARE = (sys.executable, "-m", "pipelines.commands.cli", "prepare")
IDLE = "from pipelines.data.store import shards"
SPLIT = """
import sys
from pathlib import Path
from pipelines.data.sources.corpora import open_corpus
from pipelines.data.sources.documents import split_sentences
documents = open_corpus(f"text:{sys.argv[1]}").documents()
texts = ["\\n".join(split_sentences(document, "en")) for document in documents]
Path(sys.argv[2]).write_text("\\n\\n".join(texts) + "\\n", "utf-8")
"""


def measured(*command: str | Path, cwd: Path | None = None) -> tuple[float, float]:
    """Return CPU and wall seconds of a command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(
        list(map(str, command)), check=True, cwd=cwd, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--reference-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--reference-vocab", type=Path)
    parser.add_argument("--dupe-factors", type=int, nargs="*", default=[1, 10])
    options = parser.parse_args()
    size = options.text.stat().st_size / 1e6
    folder = Path(tempfile.mkdtemp())
    root = Path(__file__).parents[1]
    rows: list[tuple[str, float, float]] = []
    try:
        idle, _ = measured(sys.executable, "-c", IDLE, cwd=root)
        startup, _ = measured(
            sys.executable, "-m", "pipelines.commands.cli", "prepare", "--help", cwd=root
        )
        text, tokenizer = options.text.absolute(), options.tokenizer.absolute()
        cpu, wall = measured(sys.executable, "-c", BARE, text, tokenizer, cwd=root)
        rows.append(("bare tokenizer, without startup", cpu - idle, wall))
        for workers in options.workers:
            store = folder / f"store{workers}"
            cpu, wall = measured(
                *PREPARE, "--corpus", f"text:{text}",
                "--tokenizer", tokenizer, "--out", store, "--workers", str(workers), cwd=root,
            )  # fmt: skip
            rows.append((f"bert-jax prepare, {workers} worker(s), total", cpu, wall))
            if workers == 1:
                rows.append(("bert-jax prepare, 1 worker, without startup", cpu - startup, wall))
        if options.reference:
            sentences = folder / "sentences.txt"
            measured(sys.executable, "-c", SPLIT, text, sentences, cwd=root)
            for factor in options.dupe_factors:
                cpu, wall = measured(
                    options.reference_python.absolute(), "create_pretraining_data.py",
                    f"--input_file={sentences}", f"--output_file={folder}/reference.tfrecord",
                    f"--vocab_file={options.reference_vocab.absolute()}",
                    f"--dupe_factor={factor}", cwd=options.reference,
                )  # fmt: skip
                rows.append((f"google-research/bert, dupe_factor={factor}", cpu, wall))
    finally:
        shutil.rmtree(folder)
    print(f"{size:.1f} MB, tokenizer {options.tokenizer.name}\n")
    print("| | CPU s | wall s | MB per CPU s | CPU relative to bare tokenizer |")
    print("|---|---:|---:|---:|---:|")
    for name, cpu, wall in rows:
        ratio = cpu / rows[0][1]
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {size / cpu:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
