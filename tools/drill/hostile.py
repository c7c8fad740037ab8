"""Hostile files: every reader is given damaged files, and files that were made to harm.

A reader may succeed, or refuse in one readable line. It may not fail in another way, end its
process, take long or much memory, read or write beside the folder that it was given, start
programs, or send control characters to the terminal. It runs in a process of its own, so that all
of this is seen. Seed, reader and the number of the try decide what a try is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from threading import Lock

from tools.drill.mutations import copied, damage
from tools.drill.readers import READERS
from tools.drill.report import Row
from tools.drill.stage import Fault, Stage
from tools.drill.tally import Tally
from tools.drill.watched import Child, Reader

LEAST = 20  # tries of a reader, however short the time
LIMIT = 10.0  # seconds for a try
_SECONDS = 3.0  # for a reader
_MAKING = Lock()  # Orbax does not save from two threads of a process

_MOST_FAILURES = 20  # of a reader; then it is known not to hold


def drilled(
    reader: Reader, folder: Path, seed: int, seconds: float, limit: float = LIMIT, first: int = 0
) -> Row:
    """The row of one reader.

    Args:
        reader: To be tried.
        folder: For the files.
        seed: Decides, with the reader's name and the number, what each try is.
        seconds: For all tries.
        limit: For one.
        first: Number of the first try, to see one again.
    """
    good, place = folder / "good", folder / "try" / "files"
    good.mkdir(parents=True)
    with _MAKING:
        reader.make(good)
    child, number = Child(reader, folder, limit), first
    tally = Tally(f"hostile {reader.name}")
    try:
        begun = child.begin()
        if begun.refusal != reader.refusal or begun.faults:
            tally.judge(
                f"the good files: {begun.refusal}", *(begun.faults or ("not as they were",))
            )
        over = time.monotonic() + seconds
        while number < first + LEAST or time.monotonic() < over:
            if len(tally.failures) == _MOST_FAILURES:
                break
            chance = Random(f"{seed} {reader.name} {number}")  # noqa: S311
            what = _prepared(reader, good, place, chance)
            outcome = child.read(place)
            what = f"seed {seed}, {reader.name}, try {number} ({what})"
            tally.judge(what, *outcome.faults, message=outcome.refusal)
            number += 1
    finally:
        child.end()
    return tally.row()


def faults() -> Iterator[Fault]:
    """One for every reader; the tests make their own tries."""
    for reader in READERS:
        yield Fault(f"hostile {reader.name}", partial(_trial, reader), quick=0)


def _trial(reader: Reader, stage: Stage, rng: Random) -> Row:
    place = stage.place()
    row = drilled(reader, place, rng.getrandbits(32), _SECONDS)
    if row.held:
        stage.remove(place)
    return row


def _prepared(reader: Reader, good: Path, place: Path, rng: Random) -> str:
    """Makes the files of a try; what was done to them."""
    copied(good, place)
    path = rng.choice(reader.files(place))
    try:
        what = damage(path, rng, reader.special)
    except (ValueError, KeyError, IndexError, RecursionError):
        what = "nothing: the change is for another form"
    reader.mend(place, rng)
    return f"{path.relative_to(place)}: {what.encode('unicode_escape').decode()}"
