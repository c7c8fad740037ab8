"""Hostile files, a few tries of every reader, and whether the drill would notice a bad reader."""

from __future__ import annotations

import ctypes
import os
import pickle
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest

from bert_jax.runtime.errors import BadInputError
from support.commands import ROOT
from tools.drill import hostile, mutations
from tools.drill.readers import READERS
from tools.drill.watched import Reader

pytestmark = pytest.mark.full

SEED = 20


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_reader_survives_hostile_files(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "LEAST", 8)  # make drill does more
    row = hostile.drilled(reader, tmp_path, SEED, 0)
    assert row.held, "\n".join(row.failures)
    assert row.tries >= hostile.LEAST


def make(folder: Path) -> None:
    (folder / "a.json").write_text('{"a": 1}\n', "utf-8")


def good(folder: Path) -> None:
    path = folder / "a.json"
    if not path.is_file() or path.read_bytes() != b'{"a": 1}\n':
        raise BadInputError(f"{path} is damaged; restore it")


def test_a_row_names_its_reader(tmp_path: Path) -> None:
    row = hostile.drilled(Reader("a.json", make, good, ("*",)), tmp_path, SEED, 0)
    assert (row.fault, row.tries, row.survived) == ("hostile a.json", 20, 20)
    assert "is damaged; restore it" in row.message


def bad(act: Callable[[Path], object], folder: Path) -> None:
    """Reads good files well, others not."""
    try:
        good(folder)
    except BadInputError:
        act(folder)


def fails(folder: Path) -> None:
    raise ValueError("a bug")


def crashes(folder: Path) -> None:
    ctypes.string_at(0)


def hangs(folder: Path) -> None:
    time.sleep(60)


def swells(folder: Path) -> None:
    bytearray(4 << 30)


def looks_elsewhere(folder: Path) -> None:
    with suppress(OSError):
        (folder / "../../canary").read_text("utf-8")


def writes_elsewhere(folder: Path) -> None:
    (folder / "../other").write_text("x", "utf-8")


def starts_a_program(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def unpickles(folder: Path) -> None:
    pickle.loads(pickle.dumps(Path))  # noqa: S301


def mumbles(folder: Path) -> None:
    raise BadInputError("")


def draws(folder: Path) -> None:
    sys.stdout.write("\x1b[2J")


def exits(folder: Path) -> None:
    sys.exit(3)


def of_no_file(folder: Path) -> None:
    raise OSError("something")


BAD = {
    fails: "ValueError 'a bug'",
    crashes: "the process ended with code -11",
    hangs: "no answer within 1 seconds",
    swells: "MemoryError",
    looks_elsewhere: "canary' was opened",
    writes_elsewhere: "was opened to write",
    starts_a_program: "subprocess.Popen",
    unpickles: "pickle.find_class",
    mumbles: "not a readable line",
    draws: "printed",
    exits: "SystemExit",
    of_no_file: "an error of no file",
}


@pytest.mark.parametrize("act", BAD, ids=lambda act: act.__name__)
def test_a_bad_reader_is_noticed(
    act: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "LEAST", 3)
    reader = Reader("a.json", make, partial(bad, act), ("*",))
    row = hostile.drilled(reader, tmp_path, SEED, 0, limit=1)
    assert not row.held
    assert row.survived < row.tries
    assert BAD[act] in row.failures[0]
    assert f"seed {SEED}, a.json, try " in row.failures[0]


def test_good_files_that_are_refused_are_noticed(tmp_path: Path) -> None:
    row = hostile.drilled(Reader("a.json", make, mumbles, ("*",)), tmp_path, SEED, 0)
    assert "the good files" in row.failures[0]


def test_a_try_can_be_seen_again(tmp_path: Path) -> None:
    reader = Reader("a.json", make, partial(bad, fails), ("*",))
    first = hostile.drilled(reader, tmp_path / "first", SEED, 0)
    number = int(re.search(r"try (\d+)", first.failures[-1])[1])
    again = hostile.drilled(reader, tmp_path / "again", SEED, 0, first=number)
    assert again.failures[0] == first.failures[-1]


def test_what_makes_hashes_true_again_does_not_read_a_pipe_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    os.mkfifo(tmp_path / "store" / "ledger.json")
    script = (
        "from pathlib import Path; from random import Random; from tools.drill import changes;"
        f"[changes.with_true_hashes(Path({str(tmp_path)!r}), Random(n)) for n in range(9)]"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}:tests"}, check=True, timeout=30,
    )  # fmt: skip


def test_the_same_chance_does_the_same_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for number in range(40):
        found = set()
        for _ in range(2):
            path.write_text('{"a": [1, 2], "b": "words"}\n', "utf-8")
            what = mutations.damage(path, Random(number))  # noqa: S311
            found.add((what, path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else b""))
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        assert len(found) == 1
