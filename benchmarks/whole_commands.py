"""Run whole commands in turns, and compare what they cost; used by other benchmarks."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = "FOLDER"  # in the words of a command: a new, empty folder


@dataclass(frozen=True)
class Side:
    """A command to measure.

    Attributes:
        name: For the table.
        words: The command.
        environment: Added to that of this process.
    """

    name: str
    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a command took, with all its processes; the peak is that of the largest one."""

    cpu_seconds: float
    seconds: float
    peak_gib: float


def bert_jax(name: str, tree: Path, cache: Path, *words: str) -> Side:
    """Return a command of the checkout `tree`, with a compilation cache of its own."""
    environment = {"PYTHONPATH": str(tree), "JAX_COMPILATION_CACHE_DIR": str(cache / name)}
    return Side(name, [sys.executable, "-m", "pipelines.commands.cli", *words], environment)


def measured(side: Side) -> Cost:
    """Run a command.

    Raises:
        RuntimeError: It fails.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        words = [word.replace(FOLDER, folder) for word in side.words]
        started = time.perf_counter()
        process = subprocess.Popen(
            words, env=os.environ | dict(side.environment), cwd=folder, stdout=errors, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status):
            errors.seek(0)
            raise RuntimeError(f"{side.name} failed: {errors.read()[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss / 2**20)


def compare(title: str, sides: Sequence[Side], rounds: int) -> None:
    """Print a table of medians, relative to the first side; the sides run in turns."""
    costs: dict[str, list[Cost]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            costs[side.name].append(measured(side))
    print(f"| {title} | CPU s | ratio | wall s | ratio | peak GiB |\n|---|{'---:|' * 5}")
    first = medians(costs[sides[0].name])
    for side in sides:
        cost = medians(costs[side.name])
        cells = [f"{cost.cpu_seconds:.1f}", f"{cost.cpu_seconds / first.cpu_seconds:.2f}"]
        cells += [f"{cost.seconds:.1f}", f"{cost.seconds / first.seconds:.2f}"]
        print(f"| {side.name} | {' | '.join(cells)} | {cost.peak_gib:.2f} |", flush=True)


def medians(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    figures = ("cpu_seconds", "seconds", "peak_gib")
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in figures))
