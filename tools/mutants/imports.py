"""The test files near a module: those that import it directly or through one other module."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tools.mutants.fault import Fault

# Folders on the import path of the tests; the first match counts.
_ROOTS = ("tests/parity", "tests", "")
_PACKAGES = ("bert_jax", "pipelines", "tpu", "tools", "tests")
# Slow test files come after the others at the same distance.
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
# Every test depends on it, so it gives no information.
_SHARED = "tests/conftest.py"


class Imports:
    """The static imports between the files of a tree.

    Attributes:
        tree: Its root.
    """

    def __init__(self, tree: Path) -> None:
        """Set the tree; files are read on demand."""
        self.tree = tree

    @cached_property
    def files(self) -> list[str]:
        """Return all Python files, as paths relative to the root."""
        paths = [path for name in _PACKAGES for path in (self.tree / name).rglob("*.py")]
        return sorted(str(path.relative_to(self.tree)) for path in paths)

    @cached_property
    def importers(self) -> dict[str, set[str]]:
        """Return the files that import each file."""
        importers: dict[str, set[str]] = {file: set() for file in self.files}
        for file in self.files:
            if file != _SHARED:
                for name in _imported((self.tree / file).read_text("utf-8")):
                    if (target := self._file(name)) is not None:
                        importers[target].add(file)
        return importers

    def tests_near(self, fault: Fault, tests: Sequence[str]) -> list[str]:
        """Return the tests at most one module away from a fault: its hints, then nearest first."""
        direct = self.importers.get(fault.file, set())
        second = {far for near in direct for far in self.importers[near]}
        stem = Path(fault.file).stem

        def rank(test: str) -> tuple[int, bool, bool, bool, str]:
            name = Path(test).stem
            hinted = fault.hint.index(name) if name in fault.hint else len(fault.hint)
            slow = name.removeprefix("test_") in _SLOW
            return hinted, slow, stem not in name, test not in direct, test

        hinted = {test for test in tests if Path(test).stem in fault.hint}
        return sorted(hinted | ((direct | second) & set(tests)), key=rank)

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
    """Yield names in imports: modules, and attributes of modules."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
