"""``python -m tools.drill.fuzz``: hostile files, searched for by what they reach in the readers.

The drill damages good files at random. Here atheris (libFuzzer) keeps what reached another line
of ours, and damages that again: https://github.com/google/atheris. A reader may do as little as in
the drill; of what is printed only that of Python is looked at.
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

from tools.drill.mutations import changed_value, copied
from tools.drill.options import chosen, parser_of, seed_of
from tools.drill.report import Row, show

COMMAND = (sys.executable, "-m", "tools.drill.fuzz")
_LANES = 2
_LIMIT = 10  # seconds for a file
_FOUND, _TRY = "found.json", "try/files"


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("make fuzz", __doc__, "reader")
    parser.add_argument("--seconds", type=int, default=60, help="for every reader (default: 60)")
    parser.add_argument("--alone", metavar="READER", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Fuzzes every reader in a process of its own; exit code 1 if one does not hold."""
    options = _parser().parse_args(argv)
    if importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is not installed; run: pip install atheris")
    if options.alone:
        _fuzz(options.alone, options.folder, options.seconds, options.seed)
        return
    from tools.drill.readers import READERS

    names = chosen([reader.name for reader in READERS], options.only, "reader")
    seed = seed_of(options)
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="bert-jax-fuzz-"))
    print(f"seed {seed}: {len(names)} readers", flush=True)  # noqa: T201
    with ThreadPoolExecutor(_LANES) as lanes:
        jobs = [
            lanes.submit(fuzzed, name, folder / str(number), options.seconds, seed)
            for number, name in enumerate(names)
        ]
        rows = []
        for job in jobs:
            rows.append(row := job.result())
            state = "held" if row.held else "FAILED"
            print(f"{row.tries:>9,} tries  {row.fault}: {state}", flush=True)  # noqa: T201
    held = show(rows, seed, began)
    if held:
        shutil.rmtree(folder)
    sys.exit(not held)


def fuzzed(name: str, folder: Path, seconds: int, seed: int) -> Row:
    """What came of one reader."""
    folder.mkdir()
    options = ["--alone", name, "--folder", folder, "--seconds", str(seconds), "--seed", str(seed)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    with (folder / "log").open("wb") as log:
        done = subprocess.run([*COMMAND, *options], stdout=log, stderr=log, env=env, check=False)
    text = (folder / "log").read_text("utf-8", "replace")
    tried = re.findall(r"^(?:#|Done )(\d+)", text, re.MULTILINE)
    tries = max(map(int, tried), default=0)
    if done.returncode == 0 and tries:
        return Row(f"fuzzed {name}", tries, tries)
    found = folder / _FOUND
    why = found.read_text("utf-8") if found.exists() else text[-2000:]
    failure = f"exit code {done.returncode}; the files are in {folder / _TRY}: {why}"
    return Row(f"fuzzed {name}", max(1, tries), max(0, tries - 1), failures=(failure,))


def _fuzz(name: str, folder: Path, seconds: int, seed: int) -> None:
    """Fuzzes one reader, in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["bert_jax", "pipelines", "tpu"]):
        from tools.drill.readers import READERS
        from tools.drill.watched import HEAVY, Guard, bind_memory, tried, unprintable

        for module in HEAVY:
            importlib.import_module(module)
    reader = next(reader for reader in READERS if reader.name == name)
    good, known = folder / "good", folder / "known"
    for place in (good, known):
        place.mkdir()
    reader.make(good)
    files = sorted({path.relative_to(good) for path in reader.files(good)})[:256]
    for number, file in enumerate(files):
        content = bytes([number]) + (good / file).read_bytes()
        (known / f"file{number}").write_bytes(content)
    largest = max(path.stat().st_size for path in known.iterdir())
    copied(good, folder / _TRY)
    tried(reader, folder / _TRY)  # what good files take, of memory as well, is given
    guard = Guard()
    sys.addaudithook(guard)
    bind_memory()

    def attempt(data: bytes) -> None:
        place = folder / _TRY
        sys.stdout = sys.stderr = said = io.StringIO()
        copied(good, place)
        file = files[data[0] % len(files)] if data else files[0]
        (place / file).write_bytes(data[1:])
        reader.mend(place, random.Random(data))  # noqa: S311
        guard.watch(place)
        faults = [*tried(reader, place)[1], *guard.found()]
        faults += unprintable(said.getvalue().encode("utf-8", "surrogateescape"))
        if faults:
            (folder / _FOUND).write_text(json.dumps([str(file), *faults]), "utf-8")
            raise RuntimeError(f"{file}: {faults}")

    # Not of libFuzzer, which takes the largest size of the process that began this one for its own.
    limits = [f"-max_total_time={seconds}", f"-timeout={_LIMIT}", "-rss_limit_mb=0"]
    sizes = [f"-max_len={2 * largest + 1000}", f"-seed={seed + 1}"]  # of 0 it makes a random one
    options = [*limits, *sizes, f"-artifact_prefix={folder}/", "-use_value_profile=1"]
    atheris.Setup([sys.argv[0], *options, str(known)], attempt, custom_mutator=_mutator(files))
    atheris.Fuzz()


def _mutator(files: Sequence[Path]) -> Callable[[bytes, int, int], bytes]:
    """Half of the changes of JSON, or of a line of it, keep its form."""
    import atheris

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311
        data = data or b"\0"
        file, content = files[data[0] % len(files)], data[1:]
        if file.suffix in (".json", ".jsonl", ".yaml") and rng.random() < 0.5:
            lines = content.split(b"\n") if file.suffix == ".jsonl" else [content]
            number = rng.randrange(len(lines))
            try:
                text, _ = changed_value(json.loads(lines[number]), rng, file.suffix == ".yaml")
                lines[number] = text.encode("utf-8", "surrogatepass")
                return (data[:1] + b"\n".join(lines))[:most]
            except (ValueError, RecursionError, TypeError):
                pass
        return data[:1] + atheris.Mutate(content, most - 1)

    return change


if __name__ == "__main__":
    main()
