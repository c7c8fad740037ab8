"""The order in which tests run against a fault: four stages, the nearest tests first."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.mutants.fault import Fault
from tools.mutants.imports import Imports

_BACKEND = "not tpu_backend"
# Tests of the catalog ("mutants" in the name) fail in a tree with a fault.
_OTHERS = "not mutants"
_NEAR = 12  # largest number of test files in the first stage
_EXTRAS = {"tests/parity": "torch", "tests/compiler": "libtpu"}  # folder -> package it needs
_PARALLEL = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")


@dataclass(frozen=True)
class Stage:
    """A call of pytest.

    Attributes:
        name: Name of the stage.
        tier: The command that runs these tests: test or test-all.
        files: Test files, nearest first.
        selection: Options of pytest that select tests by marker and name.
        parallel: Options of pytest-xdist.
    """

    name: str
    tier: str
    files: tuple[str, ...]
    selection: tuple[str, ...]
    parallel: tuple[str, ...] = ()


class Plan:
    """The stages of a tree."""

    def __init__(self, tree: Path, python: str) -> None:
        """Read the tree; `python` has the packages of the tests."""
        self._tree, self._python = tree, python
        self._imports = Imports(tree)

    def stages(self, fault: Fault) -> list[Stage]:
        """Return the stages for a fault, without those that have no files."""
        tests = self._tests
        near = self._imports.tests_near(fault, tests)[:_NEAR]
        far = self._ordered(fault, [file for file in tests if file not in near])
        everything = (*near, *far)
        quick = _selected(f"not full and {_BACKEND}" if self._has_tiers else _BACKEND)
        stages = [
            Stage("near", "test", tuple(near), quick),
            Stage("rest", "test", tuple(far), quick, _PARALLEL),
        ]
        if self._has_tiers:
            full = _selected(f"full and {_BACKEND}")
            stages.append(Stage("full", "test-all", everything, full, _PARALLEL))
        stages += [
            Stage(Path(folder).name, "test-all", tuple(files), ("-k", _OTHERS))
            for folder, files in self._extras.items()
        ]
        return [stage for stage in stages if stage.files]

    def _ordered(self, fault: Fault, files: Sequence[str]) -> list[str]:
        near = self._imports.tests_near(fault, files)
        return near + [file for file in files if file not in near]

    @cached_property
    def _all_tests(self) -> list[str]:
        paths = (self._tree / "tests").rglob("test_*.py")
        return sorted(str(path.relative_to(self._tree)) for path in paths)

    @cached_property
    def _tests(self) -> list[str]:
        return [file for file in self._all_tests if not file.startswith(tuple(_EXTRAS))]

    @cached_property
    def _extras(self) -> dict[str, list[str]]:
        """Return folder -> test files of the installed extras."""
        return {
            folder: [file for file in self._all_tests if file.startswith(f"{folder}/")]
            for folder, package in _EXTRAS.items()
            if self._has(package)
        }

    @cached_property
    def _has_tiers(self) -> bool:
        """Return whether the tests have the marker ``full``."""
        return "    full:" in (self._tree / "setup.cfg").read_text("utf-8")

    def _has(self, package: str) -> bool:
        code = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
        return not subprocess.run([self._python, "-c", code, package], check=False).returncode


def _selected(marks: str) -> tuple[str, ...]:
    return ("-m", marks, "-k", _OTHERS)
