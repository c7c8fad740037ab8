"""Events inside a process: a file gets a line whenever one of a few functions begins and ends.

Nothing else changes in the process; signals come from another one.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

BEGIN, END = "begin", "end"

# Event -> module, and the function in it.
_FUNCTIONS = {
    "listening": ("bert_jax.runtime.entry_point", "take_over"),  # signals are handled after it
    "restore": ("bert_jax.training.checkpoint", "Checkpoints.restore"),
    "compile": ("bert_jax.training.trainer", "Trainer._compile"),
    "evaluation": ("bert_jax.training.experiment", "evaluate"),
    "save": ("bert_jax.training.checkpoint", "Checkpoints.save"),
    "saved": ("bert_jax.training.checkpoint", "Checkpoints.wait"),
    "step": ("bert_jax.training.metrics", "MetricsLog.push"),
}


def record(file: Path) -> None:
    """Append the events of this process to a file from now on."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(*words: object) -> None:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())

    for event, (module, function) in _FUNCTIONS.items():
        _wrap(importlib.import_module(module), function, event, write)


def _wrap(module: Any, path: str, event: str, write: Callable[..., None]) -> None:
    *classes, name = path.split(".")
    owner = getattr(module, classes[0]) if classes else module
    function = getattr(owner, name)

    @wraps(function)
    def recorded(*arguments: Any, **options: Any) -> Any:
        step = arguments[1] if event == "step" else ""
        write(event, BEGIN, time.monotonic(), step)
        try:
            return function(*arguments, **options)
        finally:
            write(event, END, time.monotonic())

    setattr(owner, name, recorded)


def _lines(file: Path) -> list[list[str]]:
    text = file.read_text("utf-8") if file.exists() else ""
    return [line.split() for line in text.split("\n")[:-1]]


def starts(file: Path, event: str) -> list[float]:
    """Return when an event began, each time, in seconds of the monotonic clock."""
    return [float(line[2]) for line in _lines(file) if line[:2] == [event, BEGIN]]


def ends(file: Path, event: str) -> list[float]:
    """Return when an event ended, each time."""
    return [float(line[2]) for line in _lines(file) if line[:2] == [event, END]]


def longest(file: Path, event: str) -> float:
    """Return the longest duration of an event in seconds."""
    spans = zip(starts(file, event), ends(file, event), strict=False)
    return max(end - start for start, end in spans)


def newest_step(file: Path) -> int:
    """Return the newest update that began; 0 if none did."""
    steps = [int(line[3]) for line in _lines(file) if line[:2] == ["step", BEGIN]]
    return max(steps, default=0)
