"""A few hostile files for every reader, and checks that the drill detects a bad reader."""

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
from tools.drill.observed import Reader
from tools.drill.readers import READERS

pytestmark = pytest.mark.full

SEED = 20


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_reader_survives_hostile_files(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "MIN_TRIES", 8)  # make drill makes more tries
    row = hostile.drill_reader(reader, tmp_path, SEED, 0)
    assert row.passed, "\n".join(row.failures)
    assert row.tries >= hostile.MIN_TRIES


def make(folder: Path) -> None:
    (folder / "a.json").write_text('{"a": 1}\n', "utf-8")


def read_valid(folder: Path) -> None:
    path = folder / "a.json"
    if not path.is_file() or path.read_bytes() != b'{"a": 1}\n':
        raise BadInputError(f"{path} is damaged; restore it")


def test_a_row_names_its_reader(tmp_path: Path) -> None:
    row = hostile.drill_reader(Reader("a.json", make, read_valid, ("*",)), tmp_path, SEED, 0)
    assert (row.fault, row.tries, row.survived) == ("hostile a.json", 20, 20)
    assert "is damaged; restore it" in row.message


def read_badly(action: Callable[[Path], object], folder: Path) -> None:
    """Read valid files; do something forbidden with others."""
    try:
        read_valid(folder)
    except BadInputError:
        action(folder)


def raises_another_error(folder: Path) -> None:
    raise ValueError("a bug")


def crashes(folder: Path) -> None:
    ctypes.string_at(0)


def hangs(folder: Path) -> None:
    time.sleep(60)


def allocates_too_much(folder: Path) -> None:
    bytearray(4 << 30)


def reads_outside(folder: Path) -> None:
    with suppress(OSError):
        (folder / "../../canary").read_text("utf-8")


def writes_outside(folder: Path) -> None:
    (folder / "../other").write_text("x", "utf-8")


def starts_a_program(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def unpickles(folder: Path) -> None:
    pickle.loads(pickle.dumps(Path))  # noqa: S301


def gives_no_message(folder: Path) -> None:
    raise BadInputError("")


def prints_control_characters(folder: Path) -> None:
    sys.stdout.write("\x1b[2J")


def exits(folder: Path) -> None:
    sys.exit(3)


def raises_without_file(folder: Path) -> None:
    raise OSError("something")


BAD = {
    raises_another_error: "ValueError 'a bug'",
    crashes: "the process ended with code -11",
    hangs: "no answer within 1 seconds",
    allocates_too_much: "MemoryError",
    reads_outside: "canary' was opened",
    writes_outside: "was opened to write",
    starts_a_program: "subprocess.Popen",
    unpickles: "pickle.find_class",
    gives_no_message: "not a readable line",
    prints_control_characters: "printed",
    exits: "SystemExit",
    raises_without_file: "an error without a file",
}


@pytest.mark.parametrize("action", BAD, ids=lambda action: action.__name__)
def test_a_bad_reader_is_detected(
    action: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "MIN_TRIES", 3)
    reader = Reader("a.json", make, partial(read_badly, action), ("*",))
    row = hostile.drill_reader(reader, tmp_path, SEED, 0, limit=1)
    assert not row.passed
    assert row.survived < row.tries
    assert BAD[action] in row.failures[0]
    assert f"seed {SEED}, a.json, try " in row.failures[0]


def test_a_refusal_of_valid_files_is_detected(tmp_path: Path) -> None:
    row = hostile.drill_reader(Reader("a.json", make, gives_no_message, ("*",)), tmp_path, SEED, 0)
    assert "the valid files" in row.failures[0]


def test_a_try_can_be_repeated(tmp_path: Path) -> None:
    reader = Reader("a.json", make, partial(read_badly, raises_another_error), ("*",))
    first = hostile.drill_reader(reader, tmp_path / "first", SEED, 0)
    number = int(re.search(r"try (\d+)", first.failures[-1])[1])
    again = hostile.drill_reader(reader, tmp_path / "again", SEED, 0, first=number)
    assert again.failures[0] == first.failures[-1]


def test_correcting_hashes_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    os.mkfifo(tmp_path / "store" / "ledger.json")
    script = (
        "from pathlib import Path; from random import Random; from tools.drill import changes;"
        f"[changes.correct_hashes(Path({str(tmp_path)!r}), Random(n)) for n in range(9)]"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}:tests"}, check=True, timeout=30,
    )  # fmt: skip


def test_a_seed_determines_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for number in range(40):
        outcomes = set()
        for _ in range(2):
            path.write_text('{"a": [1, 2], "b": "words"}\n', "utf-8")
            change = mutations.damage(path, Random(number))  # noqa: S311
            outcomes.add((change, path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else b""))
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        assert len(outcomes) == 1
