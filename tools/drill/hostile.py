"""Hostile files: every reader gets damaged and malicious files.

A reader may succeed, or refuse in one readable line. It must not fail in another way, end its
process, use much time or memory, read or write outside its folder, start programs, or send control
characters to the terminal. It runs in its own process, which records all of this. Seed, reader and
number determine a try.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from threading import Lock

from tools.drill.fixture import Fault, Fixture
from tools.drill.mutations import copy_files, damage
from tools.drill.observed import Reader, ReaderProcess
from tools.drill.readers import READERS
from tools.drill.report import Row
from tools.drill.results import Results

MIN_TRIES = 20  # of a reader
LIMIT = 10.0  # seconds per try
_SECONDS = 3.0  # per reader
_MAKE_LOCK = Lock()  # Orbax cannot save from two threads of a process
_MAX_FAILURES = 20  # of a reader, which then ends


def drill_reader(
    reader: Reader, folder: Path, seed: int, seconds: float, limit: float = LIMIT, first: int = 0
) -> Row:
    """Run the tries of one reader; return its row.

    Args:
        reader: The reader.
        folder: For the files.
        seed: Determines each try, together with the name of the reader and the number of the try.
        seconds: Duration of all tries.
        limit: Seconds per try.
        first: Number of the first try, to repeat a failure.
    """
    valid, files = folder / "valid", folder / "try" / "files"
    valid.mkdir(parents=True)
    with _MAKE_LOCK:
        reader.make(valid)
    process, number = ReaderProcess(reader, folder, limit), first
    results = Results(f"hostile {reader.name}")
    try:
        outcome = process.start()
        if outcome.refusal != reader.refusal or outcome.faults:
            unexpected = outcome.faults or ("unexpected message",)
            results.add(f"the valid files: {outcome.refusal}", *unexpected)
        deadline = time.monotonic() + seconds
        while number < first + MIN_TRIES or time.monotonic() < deadline:
            if len(results.failures) == _MAX_FAILURES:
                break
            rng = Random(f"{seed} {reader.name} {number}")  # noqa: S311
            change = _damage_copy(reader, valid, files, rng)
            outcome = process.read(files)
            action = f"seed {seed}, {reader.name}, try {number} ({change})"
            results.add(action, *outcome.faults, message=outcome.refusal)
            number += 1
    finally:
        process.stop()
    return results.row()


def faults() -> Iterator[Fault]:
    """Yield a fault for each reader; the tests call `drill_reader` themselves."""
    for reader in READERS:
        yield Fault(f"hostile {reader.name}", partial(_trial, reader), quick=0)


def _trial(reader: Reader, fixture: Fixture, rng: Random) -> Row:
    folder = fixture.new_folder()
    row = drill_reader(reader, folder, rng.getrandbits(32), _SECONDS)
    if row.passed:
        shutil.rmtree(folder)
    return row


def _damage_copy(reader: Reader, valid: Path, folder: Path, rng: Random) -> str:
    """Copy the valid files and damage one of the copies; return the change."""
    copy_files(valid, folder)
    path = rng.choice(reader.files(folder))
    try:
        change = damage(path, rng, reader.special)
    except (ValueError, KeyError, IndexError, RecursionError):
        change = "none: the change is for another format"
    reader.repair(folder, rng)
    return f"{path.relative_to(folder)}: {change.encode('unicode_escape').decode()}"
