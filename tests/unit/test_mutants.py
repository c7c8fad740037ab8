"""The faults of tools/mutants fit the product as it stands."""

from __future__ import annotations

from support.commands import ROOT
from tools.mutants.catalog import FAULTS
from tools.mutants.fault import problems


def test_the_mutants_are_many_and_each_changes_one_place() -> None:
    assert problems(FAULTS, ROOT) == []
    assert len(FAULTS) >= 40
    assert len({fault.file for fault in FAULTS}) >= 20


def test_the_mutants_name_test_files_that_exist() -> None:
    stems = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert {stem for fault in FAULTS for stem in fault.hint} <= stems
