"""Which test files are near a module: by what they import, directly or through another module."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tools.mutants.fault import Fault

# Roots of modules, each with what stands before a path below it; the first that fits counts.
_ROOTS = ("tests/parity", "tests", "")
_PACKAGES = ("bert_jax", "pipelines", "tpu", "tools", "tests")
# They take longest, and come after all others that are as near.
_SLOW: tuple[str, ...] = (
    "docs_run",
    "drill",
    "tpu_local",
    "tpu_gs",
    "tpu_install",
    "gs",
    "processes",
)
_SLOW += ("run", "rollback_interrupted", "drill_hostile")
# Every test depends on it, which tells nothing.
_SHARED = "tests/conftest.py"


class Imports:
    """The imports between the files of a tree, as far as they can be read from the text.

    Attributes:
        tree: Its root.
    """

    def __init__(self, tree: Path) -> None:
        """Take the tree; files are read when they are needed."""
        self.tree = tree

    @cached_property
    def files(self) -> list[str]:
        """All Python files that count, as paths below the root."""
        found = [path for name in _PACKAGES for path in (self.tree / name).rglob("*.py")]
        return sorted(str(path.relative_to(self.tree)) for path in found)

    @cached_property
    def importers(self) -> dict[str, set[str]]:
        """The files that import each file."""
        found: dict[str, set[str]] = {file: set() for file in self.files}
        for file in self.files:
            if file != _SHARED:
                for name in _imported((self.tree / file).read_text("utf-8")):
                    if (target := self._file(name)) is not None:
                        found[target].add(file)
        return found

    def tests_near(self, fault: Fault, tests: Sequence[str]) -> list[str]:
        """Return those of `tests` that are at most one module away from a fault, nearest first.

        Those that the fault names as a hint stand before all others.
        """
        direct = self.importers.get(fault.file, set())
        second = {far for near in direct for far in self.importers[near]}
        stem = Path(fault.file).stem

        def place(test: str) -> tuple[int, bool, bool, bool, str]:
            name = Path(test).stem
            hinted = fault.hint.index(name) if name in fault.hint else len(fault.hint)
            slow = name.removeprefix("test_") in _SLOW
            return hinted, slow, stem not in name, test not in direct, test

        hinted = {test for test in tests if Path(test).stem in fault.hint}
        return sorted(hinted | ((direct | second) & set(tests)), key=place)

    def _file(self, module: str) -> str | None:
        """Return the file of a module of the tree."""
        path = module.replace(".", "/")
        for root in _ROOTS:
            for tail in (f"{path}.py", f"{path}/__init__.py"):
                file = f"{root}/{tail}".lstrip("/")
                if file in self._known:
                    return file
        return None

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.files)


def _imported(text: str) -> Iterator[str]:
    """Yield the names of modules that a file may import; some are names of what is in modules."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
