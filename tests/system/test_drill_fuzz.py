"""Whether fuzzing finds what it is for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.drill import fuzz

pytestmark = pytest.mark.full

pytest.importorskip("atheris", reason="there is none for this machine")

# A reader with a bug that one file of hundreds leads to.
BAD = """
import json, sys
from pathlib import Path
import atheris
from bert_jax.runtime.errors import BadInputError
from tools.drill import fuzz, readers
from tools.drill.watched import Reader

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


def test_a_bug_is_found_and_its_file_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "COMMAND", (sys.executable, "-c", BAD))
    row = fuzz.fuzzed("a.txt", tmp_path / "a", 60, seed=1)
    assert not row.held
    assert "ValueError 'a bug'" in row.failures[0]
    kept = tmp_path / "a" / "try" / "files"
    assert (kept / "a.txt").read_bytes()[:1] == b"b"
    assert str(kept) in row.failures[0]
    assert json.loads((tmp_path / "a" / "found.json").read_text("utf-8"))[0] == "a.txt"


def test_a_reader_that_holds_has_many_tries(tmp_path: Path) -> None:
    row = fuzz.fuzzed("tagged sentences", tmp_path / "a", 3, seed=1)
    assert row.held, row.failures
    assert row.tries > 20
