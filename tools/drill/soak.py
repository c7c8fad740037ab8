"""Two thousand steps with evaluations and checkpoints: nothing may grow, and nothing slow down."""

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
from support.process_harness import Circumstances, Life
from tools.drill.report import Row
from tools.drill.stage import Fault, Stage
from tools.drill.tally import ended

_STEPS, _EVERY, _LOG_EVERY = 2000, 100, 20
_PAUSE = 0.1  # seconds between looks
_M_ARENA_MAX = -8  # of glibc's malloc.h
_THP_DISABLE = 41  # PR_SET_THP_DISABLE of prctl(2)
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM = 0.2  # share of the steps after which memory must be flat
_GROWTH = 3.0  # MiB in a thousand steps: less than one of its ten states
_MORE_FILES = 1.0  # in a thousand steps; a save has some open
_SLOWER = 1.05
# What only a busy machine makes slower is not slower again.
_SOAKS = 2


@dataclass(frozen=True)
class Look:
    """At a process.

    Attributes:
        step: Newest of it.
        memory: MiB of its own.
        files: Open.
        seconds: Of processors, so far.
    """

    step: int
    memory: float
    files: int
    seconds: float


def look(life: Life) -> Look | None:
    """As the kernel knows it; None if it is over."""
    process = Path(f"/proc/{life.pid}")
    try:
        memory = _own_memory((process / "status").read_text())
        files = len(list((process / "fd").iterdir()))
        times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    except (OSError, IndexError):
        return None
    return Look(life.steps, memory, files, sum(map(int, times)) / _TICKS)


def _own_memory(status: str) -> float:
    """MiB that no file could give back, wherever the kernel has put them."""
    parts = re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", status, re.MULTILINE)
    return sum(map(int, parts)) / 1024


def per_thousand(looks: list[Look], name: str) -> float:
    """How much something grows in a thousand steps: the median from a tenth of them to the next.

    The least of every tenth, because of `show_what_is_held`; the median, because a thread that
    compresses for the first time takes some MiB that it needs but once.
    """
    last = max(one.step for one in looks)
    tenths = [[one for one in looks if 10 * one.step // (last + 1) == n] for n in range(10)]
    least = [min(getattr(one, name) for one in tenth) for tenth in tenths if tenth]
    steps = [np.mean([one.step for one in tenth]) / 1000 for tenth in tenths if tenth]
    return float(np.median(np.diff(least) / np.diff(steps)))


def slower(times: Iterable[tuple[int, float]], span: int = _LOG_EVERY) -> float:
    """Seconds of a step in the last fifth of them, by those in the first.

    The least of all spans there: another program makes some of them longer, what gets slower
    makes all.

    Args:
        times: Steps, and the seconds until then.
        span: So many steps are timed together.
    """
    steps, seconds = zip(*times, strict=True)
    # At multiples of _EVERY there are an evaluation and a save: the log counts them to the steps
    # after it, looks to those before.
    last = _EVERY - _LOG_EVERY - span
    begins = [n for n in range(0, _STEPS, _LOG_EVERY) if _LOG_EVERY <= n % _EVERY <= last]
    ends = [begin + span for begin in begins]
    spans = np.interp(ends, steps, seconds) - np.interp(begins, steps, seconds)
    fifth = len(spans) // 5
    return float(min(spans[-fifth:]) / min(spans[:fifth]))


def show_what_is_held() -> None:
    """Before every save the memory of this process is, for a look, what something in it holds.

    Neither cycles, which Python finds some minutes later, nor what the allocator keeps: for every
    thread there was, and Orbax starts many, and at the end of the heap, where the copy of the state
    had been that was saved. Nor what the kernel adds where it makes large pages of small ones.

    What is left grows by some 50 KB a save, in part because TensorStore 0.1.86 never frees the
    metrics that Orbax asks it for.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.prctl(_THP_DISABLE, 1, 0, 0, 0)
    whole = Checkpoints.save

    def save(self: Checkpoints, *arguments: Any, **options: Any) -> None:
        self.wait()
        gc.collect()
        libc.malloc_trim(0)
        time.sleep(2 * _PAUSE)
        whole(self, *arguments, **options)

    Checkpoints.save = save  # type: ignore[method-assign]


@dataclass(frozen=True)
class Drift:
    """What a soak showed.

    Attributes:
        memory: MiB that are added in a thousand steps.
        files: Open ones, likewise.
        processor: Its time for a step of the last fifth, by that of the first.
        clock: The same of the clock's.
    """

    memory: float
    files: float
    processor: float
    clock: float

    @property
    def grows(self) -> bool:
        """Whether something does."""
        return self.memory > _GROWTH or self.files > _MORE_FILES

    @property
    def slows_down(self) -> bool:
        """Other programs make a step slower by the clock, a slow-down of ours shows in both."""
        return min(self.processor, self.clock) > _SLOWER

    def __str__(self) -> str:
        """For the table."""
        return (
            f"memory {self.memory:+.2f} MiB and open files {self.files:+.2f} in 1,000 steps; a step"
            f" of the last fifth took {self.processor:.3f} of the first's processor time,"
            f" {self.clock:.3f} by the clock"
        )


def measured(stage: Stage) -> Drift | str:
    """Trains for long and looks at the process all the time; what is wrong if it does not end."""
    place = stage.place()
    phase = f"[{{length: 32, steps: {_STEPS}}}]"
    every = (f"--{key}={_EVERY}" for key in ("train.eval_every", "checkpoint.every"))
    options = ("--phases", phase, *every, f"--train.log_every={_LOG_EVERY}")
    under = Circumstances(before=show_what_is_held)
    life = stage.pretrain(place, place / "run", *options, under=under)
    looks: list[Look] = []
    while (found := look(life)) is not None and not life.ended:
        looks.append(found)
        time.sleep(_PAUSE)
    if complaint := ended(life, 0):
        return complaint
    warm = [one for one in looks if one.step >= _WARM * _STEPS]
    lines = [line for line in metrics.read(place / "run") if "loss" in line]
    return Drift(
        per_thousand(warm, "memory"),
        per_thousand(warm, "files"),
        # In spans that are long beside the clock of processors, which ticks every 10 ms.
        slower([(one.step, one.seconds) for one in looks], 3 * _LOG_EVERY),
        slower((line["step"], line["seconds"]) for line in lines),
    )


def soaked(name: str, stage: Stage, rng: random.Random) -> Row:
    """A soak; if it slows down, another."""
    for _ in range(_SOAKS):
        found = measured(stage)
        if isinstance(found, str):
            return Row(name, 1, 0, failures=(found,))
        if not found.slows_down:
            break
    failures = []
    if found.grows:
        failures.append(f"it grows: {found}")
    if found.slows_down:
        failures.append(f"it slows down, {_SOAKS} times: {found}")
    return Row(name, 1, int(not failures), 0, str(found), tuple(failures))


def faults() -> Iterator[Fault]:
    """The soak."""
    name = f"{_STEPS:,} steps in one go"
    yield Fault(name, partial(soaked, name), quick=0, alone=True)
