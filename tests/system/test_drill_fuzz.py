"""Fuzzing finds a bug, and passes a reader without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.drill import fuzz

pytestmark = pytest.mark.full

pytest.importorskip("atheris", reason="atheris is not available for this machine")

# A reader with a bug that one file in hundreds triggers.
BAD = """
import json, sys
from pathlib import Path
import atheris
from bert_jax.runtime.errors import BadInputError
from tools.drill import fuzz, readers
from tools.drill.observed import Reader

def make(folder):
    (folder / "a.txt").write_bytes(b"....")

@atheris.instrument_func
def read(folder):
    content = (folder / "a.txt").read_bytes()
    if content and content[0] == 98:
        raise ValueError("a bug")
    raise BadInputError("a.txt is damaged; restore it")

readers.READERS = [Reader("a.txt", make, read, ("*",))]
fuzz.main(sys.argv[1:])
"""


def test_a_bug_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "COMMAND", (sys.executable, "-c", BAD))
    row = fuzz.fuzz_reader("a.txt", tmp_path / "a", 60, seed=1)
    assert not row.passed
    assert "ValueError 'a bug'" in row.failures[0]
    files = tmp_path / "a" / "try" / "files"
    assert (files / "a.txt").read_bytes()[:1] == b"b"
    assert str(files) in row.failures[0]
    assert json.loads((tmp_path / "a" / "failure.json").read_text("utf-8"))[0] == "a.txt"


def test_a_good_reader_passes_many_tries(tmp_path: Path) -> None:
    row = fuzz.fuzz_reader("examples of tagging", tmp_path / "a", 3, seed=1)
    assert row.passed, row.failures
    assert row.tries > 20
