"""Compare the CPU time of `bert-jax prepare` for each format of a corpus with that of `text:`.

    python benchmarks/sources.py TEXT --tokenizer DIR [--megabytes 40] [--repeats 3]
        [--dump DUMP.xml.bz2 --wikiextractor PYTHON] [--memory GIGABYTES]

TEXT is a plain or .xz file with a paragraph per line and a blank line between documents. Its
beginning is written in every format by the format's own library; then one process makes a store of
each. A round measures every format once, and the table holds the median over the rounds of the
ratio to `text:` in the same round. CPU time is the user and system time of the process.

--dump compares a dump with wikiextractor (of PYTHON) followed by `jsonl:`. --memory writes Parquet
files with row groups of 1 GB and prints the largest resident memory of `prepare`.
"""

from __future__ import annotations

import argparse
import json
import lzma
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.row_files import WRITERS, write_parquet  # noqa: E402

PREPARE = (sys.executable, "-m", "pipelines.commands.cli", "prepare", "--workers", "1")


def documents(path: Path, size: int) -> Iterator[str]:
    """Yield the documents of the first `size` bytes of a text."""
    lines: list[str] = []
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
        for line in file:
            size -= len(line)
            if line.strip():
                lines.append(line.strip())
            elif lines:
                yield "\n".join(lines)
                lines = []
            if size < 0:
                return


def measured(spec: str, tokenizer: Path, folder: Path) -> tuple[float, int]:
    """Return CPU seconds and the largest resident MiB of making a store."""
    command = (*PREPARE, "--corpus", spec, "--tokenizer", str(tokenizer), "--out", str(folder))
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    pid = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL).pid
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{spec} failed; run it by hand")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss >> 10


def compare(specs: dict[str, str], tokenizer: Path, folder: Path, repeats: int) -> None:
    """Print a row for each specification; the first is the reference."""
    times: dict[str, list[float]] = {name: [] for name in specs}
    for repeat in range(repeats):
        for name, spec in specs.items():
            out = folder / f"store-{name}-{repeat}"
            seconds, _ = measured(spec, tokenizer, out)
            times[name].append(seconds)
    reference = next(iter(specs))
    print("| format | CPU s | ratio |\n|---|---:|---:|")
    for name in specs:
        ratios = [a / b for a, b in zip(times[name], times[reference], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        row = f"| {name} | {statistics.median(times[name]):.1f} | {ratio} |"
        print(row, flush=True)


def formats(texts: list[str], folder: Path) -> dict[str, str]:
    """Write texts in every format; return their specifications."""
    rows = [{"text": text} for text in texts]
    (folder / "a.txt").write_text("\n\n".join(texts) + "\n", "utf-8")
    specs = {"text": f"text:{folder}/a.txt"}
    for name, writer in WRITERS.items():
        (folder / name).mkdir()
        write: Callable[..., str] = writer
        specs[name] = (
            write(folder / name, rows, 1000) if name in _SIZED else write(folder / name, rows)
        )
    (folder / "files").mkdir()
    for number, text in enumerate(texts):
        (folder / "files" / f"{number:06}.txt").write_text(text, "utf-8")
    return specs | {"files": f"files:{folder}/files/*#keep"}


_SIZED = ("parquet", "arrow")  # rows of a group or batch


def dump(path: Path, python: Path, tokenizer: Path, folder: Path, repeats: int) -> None:
    """Compare a dump with wikiextractor and `jsonl:` on its output."""
    rows = []
    for repeat in range(repeats):
        ours, _ = measured(f"wikipedia:{path}", tokenizer, folder / f"dump-{repeat}")
        out = folder / f"extracted-{repeat}"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [python, "-m", "wikiextractor.WikiExtractor", path, "--json", "--processes", "1",
             "-q", "-o", out],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        extraction = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        rest, _ = measured(f"jsonl:{out}/*/wiki_*", tokenizer, folder / f"json-{repeat}")
        rows.append((ours, extraction, rest))
    ratio = statistics.median(ours / (extraction + rest) for ours, extraction, rest in rows)
    print(json.dumps({"wikipedia/(wikiextractor+jsonl)": round(ratio, 3), "seconds": rows}))


def write_row_groups(path: Path, number: int, folder: Path) -> None:
    """Write a Parquet file with one row group of 1 GB of text."""
    texts = list(documents(path, 20 * 10**6))
    repeats = -(-(10**9) // sum(map(len, texts)))
    rows = [{"text": f"{number} {repeat} {text}"} for repeat in range(repeats) for text in texts]
    folder.mkdir()
    write_parquet(folder, rows, len(rows))


def memory(path: Path, gigabytes: int, tokenizer: Path, folder: Path) -> None:
    """Print the largest resident memory of `prepare` for row groups of 1 GB."""
    for number in range(gigabytes):  # in other processes: a child inherits the peak of its parent
        job = (path, number, folder / f"{number}")
        writer = multiprocessing.get_context("spawn").Process(target=write_row_groups, args=job)
        writer.start()
        writer.join()
    started = time.monotonic()
    _, resident = measured(f"parquet:{folder}/[0-9]/*.parquet", tokenizer, folder / "store")
    minutes = (time.monotonic() - started) / 60
    print(f"{gigabytes} GB of Parquet: {resident} MiB resident, {minutes:.0f} minutes")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dump", type=Path)
    parser.add_argument("--wikiextractor", type=Path, default=Path(sys.executable))
    parser.add_argument("--memory", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, tokenizer = Path(name), options.tokenizer.absolute()
        if options.memory:
            memory(options.text.absolute(), options.memory, tokenizer, folder)
        elif options.dump:
            dump(options.dump.absolute(), options.wikiextractor, tokenizer, folder, options.repeats)
        else:
            texts = list(documents(options.text, options.megabytes * 10**6))
            compare(formats(texts, folder), tokenizer, folder, options.repeats)


if __name__ == "__main__":
    main()
