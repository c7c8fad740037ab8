"""Counts the compilations of each test file: ``pytest --compilations`` prints a table.

A program from the persistent cache takes a tenth of the time of a new one. Tests with the same
shapes and options share programs across files, workers and processes.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "BERT_JAX_TEST_COMPILATIONS"
"""The file to which workers and the processes of `process_harness` append."""

_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "traced",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowered",
    "/jax/core/compile/backend_compile_duration": "compiled",  # new or from the cache
    "/jax/compilation_cache/cache_retrieval_time_sec": "cached",
}


def record() -> None:
    """Append a line "EVENT SECONDS FILE" for each program of this process, if requested."""
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
    """Set the file before workers inherit the environment."""
    if config.getoption("--compilations") and "PYTEST_XDIST_WORKER" not in os.environ:
        folder = Path(config.rootpath, ".pytest_cache")
        folder.mkdir(exist_ok=True)
        file = folder / "compilations.txt"
        file.unlink(missing_ok=True)
        os.environ[VARIABLE] = str(file)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print programs, those not in the cache, and seconds of compiling, lowering and tracing."""
    if not config.getoption("--compilations"):
        return
    file = Path(os.environ[VARIABLE])
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    count: Counter[tuple[str, str]] = Counter()
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for line in lines:
        event, duration, test = line.split(" ", 2)
        for name in (test, "all"):
            count[event, name] += 1
            seconds[event, name] += float(duration)
    terminalreporter.section("programs by test file")
    row = "{:>9} {:>9} {:>9} {:>9} {:>9}  {}"
    write = terminalreporter.write_line
    write(row.format("programs", "new", "compile s", "lower s", "trace s", "file"))
    for test in sorted({name for _, name in count}, key=lambda name: -seconds["compiled", name]):
        new = count["compiled", test] - count["cached", test]
        times = (f"{seconds[event, test]:.1f}" for event in ("compiled", "lowered", "traced"))
        write(row.format(count["compiled", test], new, *times, test))
