"""A plugin of pytest that writes down what happens; loaded by its file, without the package.

It runs the test files in the order in which they were given, whatever the tree's own conftest does.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

EVENTS = "MUTANTS_EVENTS"  # environment variable: the file to write
FILES = "MUTANTS_FILES"  # environment variable: test files in their order, separated by colons


def _note(event: str, name: str) -> None:
    # Workers of pytest-xdist report to the first process, which is the one that writes.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(os.environ[EVENTS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([event, name]) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by their files."""
    files = os.environ.get(FILES, "").split(":")
    places = {file: number for number, file in enumerate(files)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_runtest_logstart(nodeid: str) -> None:
    """Write down that a test begins."""
    _note("begin", nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Write down that a test is over."""
    _note("over", nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down how a part of a test ended."""
    _note("fail" if report.failed else "part", report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write down a file that cannot be imported."""
    if report.failed:
        _note("fail", report.nodeid)
