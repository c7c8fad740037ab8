"""``python -m tools.drill.fuzz``: coverage-guided search for files that break a reader.

The drill damages valid files at random. Here atheris (libFuzzer) keeps files that reach new lines
of the product and damages them further: https://github.com/google/atheris. The rules for readers
are those of the drill; only text printed from Python is checked.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.drill.mutations import changed_value, copy_files
from tools.drill.options import parser_of, seed_of, select
from tools.drill.report import Row, print_report

COMMAND = (sys.executable, "-m", "tools.drill.fuzz")
_THREADS = 2
_LIMIT = 10  # seconds per file
_FAILURE, _TRY = "failure.json", "try/files"


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("make fuzz", __doc__, "reader")
    parser.add_argument("--seconds", type=int, default=60, help="seconds per reader (default: 60)")
    parser.add_argument("--alone", metavar="READER", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Fuzz every reader in its own process; exit code 1 if one fails."""
    options = _parser().parse_args(argv)
    if importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is not installed; run: pip install atheris")
    if options.alone:
        _fuzz(options.alone, options.folder, options.seconds, options.seed)
        return
    from tools.drill.readers import READERS

    names = select([reader.name for reader in READERS], options.only, "reader")
    seed = seed_of(options)
    started, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="bert-jax-fuzz-"))
    print(f"seed {seed}: {len(names)} readers", flush=True)  # noqa: T201
    with ThreadPoolExecutor(_THREADS) as pool:
        jobs = [
            pool.submit(fuzz_reader, name, folder / str(number), options.seconds, seed)
            for number, name in enumerate(names)
        ]
        rows = []
        for job in jobs:
            rows.append(row := job.result())
            state = "passed" if row.passed else "FAILED"
            print(f"{row.tries:>9,} tries  {row.fault}: {state}", flush=True)  # noqa: T201
    passed = print_report(rows, seed, started)
    if passed:
        shutil.rmtree(folder)
    sys.exit(not passed)


def fuzz_reader(name: str, folder: Path, seconds: int, seed: int) -> Row:
    """Fuzz one reader in a new process; return its row."""
    folder.mkdir()
    options = ["--alone", name, "--folder", folder, "--seconds", str(seconds), "--seed", str(seed)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    with (folder / "log").open("wb") as log:
        result = subprocess.run([*COMMAND, *options], stdout=log, stderr=log, env=env, check=False)
    text = (folder / "log").read_text("utf-8", "replace")
    counts = re.findall(r"^(?:#|Done )(\d+)", text, re.MULTILINE)
    tries = max(map(int, counts), default=0)
    if result.returncode == 0 and tries:
        return Row(f"fuzzed {name}", tries, tries)
    report = folder / _FAILURE
    reason = report.read_text("utf-8") if report.exists() else text[-2000:]
    failure = f"exit code {result.returncode}; the files are in {folder / _TRY}: {reason}"
    return Row(f"fuzzed {name}", max(1, tries), max(0, tries - 1), failures=(failure,))


def _fuzz(name: str, folder: Path, seconds: int, seed: int) -> None:
    """Fuzz one reader in this process, which atheris ends."""
    import atheris

    with atheris.instrument_imports(include=["bert_jax", "pipelines", "tpu"]):
        from tools.drill.observed import PRELOAD, Monitor, attempt, limit_memory, output_faults
        from tools.drill.readers import READERS

        for module in PRELOAD:
            importlib.import_module(module)
    reader = next(reader for reader in READERS if reader.name == name)
    valid, seeds = folder / "valid", folder / "seeds"
    for path in (valid, seeds):
        path.mkdir()
    reader.make(valid)
    files = sorted({path.relative_to(valid) for path in reader.files(valid)})[:256]
    for number, file in enumerate(files):
        content = bytes([number]) + (valid / file).read_bytes()
        (seeds / f"file{number}").write_bytes(content)
    largest = max(path.stat().st_size for path in seeds.iterdir())
    copy_files(valid, folder / _TRY)
    attempt(reader, folder / _TRY)  # allocates what valid files need, before the limit
    monitor = Monitor()
    sys.addaudithook(monitor)
    limit_memory()

    def test_one_input(data: bytes) -> None:
        target = folder / _TRY
        sys.stdout = sys.stderr = output = io.StringIO()
        copy_files(valid, target)
        file = files[data[0] % len(files)] if data else files[0]
        (target / file).write_bytes(data[1:])
        reader.repair(target, random.Random(data))  # noqa: S311
        monitor.start(target)
        faults = [*attempt(reader, target)[1], *monitor.stop()]
        faults += output_faults(output.getvalue().encode("utf-8", "surrogateescape"))
        if faults:
            (folder / _FAILURE).write_text(json.dumps([str(file), *faults]), "utf-8")
            raise RuntimeError(f"{file}: {faults}")

    # No memory limit of libFuzzer: it would count the peak of the parent process.
    limits = [f"-max_total_time={seconds}", f"-timeout={_LIMIT}", "-rss_limit_mb=0"]
    sizes = [f"-max_len={2 * largest + 1000}", f"-seed={seed + 1}"]  # 0 would mean a random seed
    options = [*limits, *sizes, f"-artifact_prefix={folder}/", "-use_value_profile=1"]
    atheris.Setup(
        [sys.argv[0], *options, str(seeds)], test_one_input, custom_mutator=_mutator(files)
    )
    atheris.Fuzz()


def _mutator(files: Sequence[Path]) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator; half of its changes to JSON keep the format valid."""
    import atheris

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311
        data = data or b"\0"
        file, content = files[data[0] % len(files)], data[1:]
        if file.suffix in (".json", ".jsonl", ".yaml") and rng.random() < 0.5:
            lines = content.split(b"\n") if file.suffix == ".jsonl" else [content]
            number = rng.randrange(len(lines))
            try:
                text, _ = changed_value(json.loads(lines[number]), rng, file.suffix == ".yaml")
                lines[number] = text.encode("utf-8", "surrogatepass")
                return (data[:1] + b"\n".join(lines))[:max_size]
            except (ValueError, RecursionError, TypeError):
                pass
        return data[:1] + atheris.Mutate(content, max_size - 1)

    return mutate


if __name__ == "__main__":
    main()
