"""Counts what each test file compiles: `pytest --compilations` ends with a table.

A program that the persistent cache already has costs a tenth of a new one, so tests that use the
same shapes and options share programs across files, workers and processes.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "BERT_JAX_TEST_COMPILATIONS"
"""Names the file that workers and the processes of `process_harness` append to."""

_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "traced",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowered",
    "/jax/core/compile/backend_compile_duration": "compiled",  # anew or from the cache
    "/jax/compilation_cache/cache_retrieval_time_sec": "cached",
}


def record() -> None:
    """Appends a line "EVENT SECONDS FILE" for every program of this process, where asked for."""
    if VARIABLE not in os.environ:
        return
    import jax

    descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event in _EVENTS:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
            os.write(descriptor, f"{_EVENTS[event]} {max(seconds, 0):.4f} {test}\n".encode())

    jax.monitoring.register_event_duration_secs_listener(listen)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compilations", action="store_true", help="print programs per test file")


def pytest_configure(config: pytest.Config) -> None:
    """Chooses the file before workers inherit the environment."""
    if config.getoption("--compilations") and "PYTEST_XDIST_WORKER" not in os.environ:
        folder = Path(config.rootpath, ".pytest_cache")
        folder.mkdir(exist_ok=True)
        file = folder / "compilations.txt"
        file.unlink(missing_ok=True)
        os.environ[VARIABLE] = str(file)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints the table: programs, those not in the cache, seconds of compiling and of tracing."""
    if not config.getoption("--compilations"):
        return
    file = Path(os.environ[VARIABLE])
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    count: Counter[tuple[str, str]] = Counter()
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for line in lines:
        event, took, test = line.split(" ", 2)
        for name in (test, "all"):
            count[event, name] += 1
            seconds[event, name] += float(took)
    terminalreporter.section("programs by test file")
    row = "{:>9} {:>9} {:>9} {:>9} {:>9}  {}"
    write = terminalreporter.write_line
    write(row.format("programs", "new", "compile s", "lower s", "trace s", "file"))
    for test in sorted({name for _, name in count}, key=lambda name: -seconds["compiled", name]):
        new = count["compiled", test] - count["cached", test]
        spent = (f"{seconds[event, test]:.1f}" for event in ("compiled", "lowered", "traced"))
        write(row.format(count["compiled", test], new, *spent, test))
