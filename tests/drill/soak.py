"""Two thousand steps with evaluations and checkpoints: nothing may grow, and nothing slow down."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bert_jax import metrics
from drill.lives import Life
from drill.report import Row
from drill.stage import Fault, Stage

_STEPS, _EVERY = 2000, 100
_PAUSE = 0.1  # seconds between looks
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM = 0.2  # share of the steps after which memory must be flat
_GROWTH = 1.0  # MiB in a thousand steps; what allocators scatter, a leaked batch would be more
_SLOWER = 1.05


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
    """How much something grows in a thousand steps, by least squares."""
    steps = np.array([one.step for one in looks]) / 1000
    return float(np.polyfit(steps, [getattr(one, name) for one in looks], 1)[0])


def per_step(looks: list[Look], first: int, last: int) -> float:
    """Seconds of processors that a step took."""
    inside = [one for one in looks if first <= one.step <= last]
    begin, end = inside[0], inside[-1]
    return (end.seconds - begin.seconds) / (end.step - begin.step)


def wall_per_step(run_dir: Path, first: int, last: int) -> float:
    """Seconds that a step took by the clock, everything between steps included."""
    lines = [x for x in metrics.read(run_dir) if "loss" in x and first <= x["step"] <= last]
    return (lines[-1]["seconds"] - lines[0]["seconds"]) / (lines[-1]["step"] - lines[0]["step"])


def soaked(name: str, steps: int, stage: Stage, rng: random.Random) -> Row:
    """Trains for `steps`, and looks at the process all the time."""
    place = stage.place()
    length = f"[{{length: 32, steps: {steps}, batch_size: 16}}]"
    every = (f"--{key}={_EVERY}" for key in ("train.eval_every", "checkpoint.every"))
    log = ("--train.log_every", str(_EVERY // 5))
    life = stage.pretrain(place, place / "run", "--phases", length, *every, *log)
    looks: list[Look] = []
    while (found := look(life)) is not None and not life.ended:
        looks.append(found)
        time.sleep(_PAUSE)
    failures = [] if life.end() == 0 else [life.last_line]
    fifth = steps // 5
    warm = [one for one in looks if one.step >= _WARM * steps]
    memory, files = per_thousand(warm, "memory"), per_thousand(warm, "files")
    slower = per_step(looks, steps - fifth, steps) / per_step(looks, 1, fifth)
    by_clock = [
        wall_per_step(place / "run", *span) for span in ((1, fifth), (steps - fifth, steps))
    ]
    message = (
        f"{steps:,} steps: memory {memory:+.2f} MiB and open files {files:+.2f} in 1,000 steps;"
        f" processor time of the last fifth {slower:.3f} of the first,"
        f" by the clock {by_clock[1] / by_clock[0]:.3f}"
    )
    if steps >= _STEPS:
        if memory > _GROWTH or files > 0.5:
            failures.append("it grows")
        if slower > _SLOWER:
            failures.append("it slows down")
    return Row(name, 1, int(not failures), 0, message, tuple(failures))


def faults() -> Iterator[Fault]:
    """Both."""
    name = f"{_STEPS:,} steps in one go"
    yield Fault(name, partial(soaked, name, _STEPS), jobs=1, quick=0, alone=True)
