"""A pytest plugin that records events and runs test files in a given order.

pytest loads this file alone, without its package.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

EVENTS = "MUTANTS_EVENTS"  # environment variable: the file to write
FILES = "MUTANTS_FILES"  # environment variable: test files in their order, separated by colons


def _record(event: str, name: str) -> None:
    # Only the main process writes; workers of pytest-xdist report to it.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(os.environ[EVENTS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([event, name]) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by their files."""
    files = os.environ.get(FILES, "").split(":")
    ranks = {file: rank for rank, file in enumerate(files)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


def pytest_runtest_logstart(nodeid: str) -> None:
    """Record the start of a test."""
    _record("begin", nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Record the end of a test."""
    _record("over", nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the result of a phase of a test."""
    _record("fail" if report.failed else "part", report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a file that cannot be imported."""
    if report.failed:
        _record("fail", report.nodeid)
