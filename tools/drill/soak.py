"""Two thousand steps with evaluations and checkpoints: nothing may grow or slow down."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.training import metrics
from bert_jax.training.checkpoint import Checkpoints
from support.process_harness import Environment, Process
from tools.drill.fixture import Fault, Fixture
from tools.drill.report import Row
from tools.drill.results import exit_problem

_STEPS, _EVERY, _LOG_EVERY = 2000, 100, 20
_PAUSE = 0.1  # seconds between samples
_M_ARENA_MAX = -8  # from malloc.h of glibc
_THP_DISABLE = 41  # PR_SET_THP_DISABLE of prctl(2)
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM = 0.2  # fraction of the steps after which memory must be flat
_GROWTH = 3.0  # MiB in a thousand steps: less than one of the ten states saved
_FILE_GROWTH = 1.0  # files in a thousand steps; a save opens some
_SLOWDOWN = 1.05
_SOAKS = 2  # a slowdown by other programs is not repeated


@dataclass(frozen=True)
class Sample:
    """State of a process at one time.

    Attributes:
        step: Newest update.
        memory: Private memory in MiB.
        files: Number of open files.
        seconds: Processor time so far.
    """

    step: int
    memory: float
    files: int
    seconds: float


def sample(process: Process) -> Sample | None:
    """Read the state of a process from /proc; return None if it is over."""
    folder = Path(f"/proc/{process.pid}")
    try:
        memory = _own_memory((folder / "status").read_text())
        files = len(list((folder / "fd").iterdir()))
        times = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    except (OSError, IndexError):
        return None
    return Sample(process.newest_step, memory, files, sum(map(int, times)) / _TICKS)


def _own_memory(status: str) -> float:
    """Return MiB that are not backed by files, in memory or swap."""
    parts = re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", status, re.MULTILINE)
    return sum(map(int, parts)) / 1024


def growth_per_thousand(samples: list[Sample], name: str) -> float:
    """Return the growth of an attribute in a thousand steps: the median between tenths of the run.

    Each tenth counts with its minimum, because `trim_before_saves` lowers memory only for a moment.
    The median ignores the few MiB that a compressing thread allocates once.
    """
    last = max(sample.step for sample in samples)
    tenths = [[s for s in samples if 10 * s.step // (last + 1) == n] for n in range(10)]
    minima = [min(getattr(s, name) for s in tenth) for tenth in tenths if tenth]
    steps = [np.mean([s.step for s in tenth]) / 1000 for tenth in tenths if tenth]
    return float(np.median(np.diff(minima) / np.diff(steps)))


def slowdown(times: Iterable[tuple[int, float]], span: int = _LOG_EVERY) -> float:
    """Return the time of a step in the last fifth of the run, relative to the first fifth.

    Each fifth counts with its fastest span: other programs lengthen some spans, a slowdown all.

    Args:
        times: Steps, and the seconds until each.
        span: Number of steps in a span.
    """
    steps, seconds = zip(*times, strict=True)
    # Spans avoid multiples of _EVERY with their evaluation and save: the log adds this time to
    # the steps after it, samples add it to those before.
    last = _EVERY - _LOG_EVERY - span
    starts = [n for n in range(0, _STEPS, _LOG_EVERY) if _LOG_EVERY <= n % _EVERY <= last]
    ends = [start + span for start in starts]
    spans = np.interp(ends, steps, seconds) - np.interp(starts, steps, seconds)
    fifth = len(spans) // 5
    return float(min(spans[-fifth:]) / min(spans[:fifth]))


def trim_before_saves() -> None:
    """Reduce the memory of this process to what is referenced, for a moment before every save.

    This frees reference cycles, which Python would collect minutes later, and memory that the
    allocator keeps for threads and at the end of the heap. It also disables huge pages.

    The rest grows by about 50 KB per save, in part because TensorStore 0.1.86 never frees the
    metrics that Orbax requests.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.prctl(_THP_DISABLE, 1, 0, 0, 0)
    original = Checkpoints.save

    def save(self: Checkpoints, *arguments: Any, **options: Any) -> None:
        self.wait()
        gc.collect()
        libc.malloc_trim(0)
        time.sleep(2 * _PAUSE)
        original(self, *arguments, **options)

    Checkpoints.save = save  # type: ignore[method-assign]


@dataclass(frozen=True)
class Drift:
    """Changes during a soak.

    Attributes:
        memory: Growth in MiB per thousand steps.
        files: Growth of the number of open files per thousand steps.
        processor: Processor time of a step in the last fifth, relative to the first.
        clock: Elapsed time of a step in the last fifth, relative to the first.
    """

    memory: float
    files: float
    processor: float
    clock: float

    @property
    def grows(self) -> bool:
        """Return whether memory or the number of open files grows."""
        return self.memory > _GROWTH or self.files > _FILE_GROWTH

    @property
    def slows_down(self) -> bool:
        """Return whether steps slow down by both measures; other programs affect one of them."""
        return min(self.processor, self.clock) > _SLOWDOWN

    def __str__(self) -> str:
        """Return a line for the table."""
        return (
            f"per 1,000 steps: memory {self.memory:+.2f} MiB, open files {self.files:+.2f};"
            f" step time in the last fifth relative to the first: {self.processor:.3f} (processor),"
            f" {self.clock:.3f} (clock)"
        )


def measure(fixture: Fixture) -> Drift | str:
    """Train for long and sample the process; return a problem if it does not end well."""
    folder = fixture.new_folder()
    phase = f"[{{length: 32, steps: {_STEPS}}}]"
    every = (f"--{key}={_EVERY}" for key in ("train.eval_every", "checkpoint.every"))
    options = ("--phases", phase, *every, f"--train.log_every={_LOG_EVERY}")
    environment = Environment(setup=trim_before_saves)
    process = fixture.pretrain(folder, folder / "run", *options, environment=environment)
    samples: list[Sample] = []
    while (state := sample(process)) is not None and not process.has_ended:
        samples.append(state)
        time.sleep(_PAUSE)
    if problem := exit_problem(process, 0):
        return problem
    warm = [s for s in samples if s.step >= _WARM * _STEPS]
    lines = [line for line in metrics.read(folder / "run") if "loss" in line]
    return Drift(
        growth_per_thousand(warm, "memory"),
        growth_per_thousand(warm, "files"),
        # Longer spans, because processor time has a resolution of 10 ms.
        slowdown([(s.step, s.seconds) for s in samples], 3 * _LOG_EVERY),
        slowdown((line["step"], line["seconds"]) for line in lines),
    )


def soak(name: str, fixture: Fixture, rng: random.Random) -> Row:
    """Soak a run; repeat it if steps slow down."""
    for _ in range(_SOAKS):
        drift = measure(fixture)
        if isinstance(drift, str):
            return Row(name, 1, 0, failures=(drift,))
        if not drift.slows_down:
            break
    failures = []
    if drift.grows:
        failures.append(f"growth: {drift}")
    if drift.slows_down:
        failures.append(f"slowdown in {_SOAKS} runs: {drift}")
    return Row(name, 1, int(not failures), 0, str(drift), tuple(failures))


def faults() -> Iterator[Fault]:
    """Yield the soak."""
    name = f"{_STEPS:,} steps in one go"
    yield Fault(name, partial(soak, name), quick=0, alone=True)
