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

from bert_jax import metrics
from bert_jax.checkpoint import Checkpoints
from drill.lives import Circumstances, Life
from drill.report import Row
from drill.stage import Fault, Stage
from drill.tally import ended

_STEPS, _EVERY = 2000, 100
_PAUSE = 0.1  # seconds between looks
_M_ARENA_MAX = -8  # of glibc's malloc.h
_THP_DISABLE = 41  # PR_SET_THP_DISABLE of prctl(2)
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM = 0.2  # share of the steps after which memory must be flat
_GROWTH = 3.0  # MiB in a thousand steps: less than one of its ten states
_MORE_FILES = 1.0  # in a thousand steps; a save has some open
_SLOWER = 1.05
# Steps, away from those at which something else is done; by the first of them the evaluation and
# what a save needs are compiled.
_MARKS = range(_EVERY + _EVERY // 2, _STEPS + 1, _EVERY)


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

    The least of every tenth, because a save holds a copy of the state while it lasts; the median,
    because now and then the allocator gives back a lot at once.
    """
    last = max(one.step for one in looks)
    tenths = [[one for one in looks if 10 * one.step // (last + 1) == n] for n in range(10)]
    least = [min(getattr(one, name) for one in tenth) for tenth in tenths if tenth]
    steps = [np.mean([one.step for one in tenth]) / 1000 for tenth in tenths if tenth]
    return float(np.median(np.diff(least) / np.diff(steps)))


def slower(times: Iterable[tuple[int, float]]) -> float:
    """Seconds from mark to mark in the last fifth of the steps, by those in the first.

    The least of each: another program makes some of them longer, what gets slower makes all.

    Args:
        times: Steps, and the seconds until then.
    """
    steps, seconds = zip(*times, strict=True)
    spans = np.diff(np.interp(_MARKS, steps, seconds))
    fifth = len(spans) // 5
    return float(min(spans[-fifth:]) / min(spans[:fifth]))


def show_what_is_held() -> None:
    """From now on the memory of this process is what something in it holds.

    Neither cycles, which Python finds some minutes later, nor what the allocator keeps for every
    thread there was: with the many that Orbax starts, that grows for some minutes and then no more.
    Nor what the kernel adds where it makes large pages of small ones, whenever it has time for it.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.prctl(_THP_DISABLE, 1, 0, 0, 0)
    whole = Checkpoints.save

    def save(*arguments: Any, **options: Any) -> None:
        gc.collect()
        whole(*arguments, **options)

    Checkpoints.save = save  # type: ignore[method-assign]


def soaked(name: str, stage: Stage, rng: random.Random) -> Row:
    """Trains for long, and looks at the process all the time."""
    place = stage.place()
    length = f"[{{length: 32, steps: {_STEPS}, batch_size: 16}}]"
    every = (f"--{key}={_EVERY}" for key in ("train.eval_every", "checkpoint.every"))
    options = ("--phases", length, *every, "--train.log_every", str(_EVERY // 5))
    under = Circumstances(before=show_what_is_held)
    life = stage.pretrain(place, place / "run", *options, under=under)
    looks: list[Look] = []
    while (found := look(life)) is not None and not life.ended:
        looks.append(found)
        time.sleep(_PAUSE)
    if complaint := ended(life, 0):
        return Row(name, 1, 0, failures=(complaint,))
    failures = []
    warm = [one for one in looks if one.step >= _WARM * _STEPS]
    memory, files = per_thousand(warm, "memory"), per_thousand(warm, "files")
    processor = slower((one.step, one.seconds) for one in looks)
    lines = [line for line in metrics.read(place / "run") if "loss" in line]
    clock = slower((line["step"], line["seconds"]) for line in lines)
    message = (
        f"memory {memory:+.2f} MiB and open files {files:+.2f} in 1,000 steps; a step of the last"
        f" fifth took {processor:.3f} of the first's processor time, {clock:.3f} by the clock"
    )
    if memory > _GROWTH or files > _MORE_FILES:
        failures.append(f"it grows: {message}")
    # Other programs make a step slower by the clock, a slow-down of ours shows in both.
    if min(processor, clock) > _SLOWER:
        failures.append(f"it slows down: {message}")
    return Row(name, 1, int(not failures), 0, message, tuple(failures))


def faults() -> Iterator[Fault]:
    """The soak."""
    name = f"{_STEPS:,} steps in one go"
    yield Fault(name, partial(soaked, name), quick=0, alone=True)
