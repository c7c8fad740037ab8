"""What a process is at, told from inside: a line in a file when a moment begins and ends.

Nothing else is changed by it: whoever strikes is another process.
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

# Moment -> module, and the function in it.
_FUNCTIONS = {
    "listening": ("bert_jax.runtime.entry_point", "take_over"),  # at its end signals are heeded
    "restore": ("bert_jax.training.checkpoint", "Checkpoints.restore"),
    "compile": ("bert_jax.training.trainer", "Trainer._compile"),
    "evaluation": ("bert_jax.training.experiment", "evaluate"),
    "save": ("bert_jax.training.checkpoint", "Checkpoints.save"),
    "saved": ("bert_jax.training.checkpoint", "Checkpoints.wait"),
    "step": ("bert_jax.training.metrics", "MetricsLog.push"),
}


def announce(notes: Path) -> None:
    """Lets this process tell its moments."""
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(*words: object) -> None:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())

    for moment, (module, function) in _FUNCTIONS.items():
        _wrap(importlib.import_module(module), function, moment, note)


def _wrap(module: Any, path: str, moment: str, note: Callable[..., None]) -> None:
    *classes, name = path.split(".")
    owner = getattr(module, classes[0]) if classes else module
    function = getattr(owner, name)

    @wraps(function)
    def told(*arguments: Any, **options: Any) -> Any:
        step = arguments[1] if moment == "step" else ""
        note(moment, BEGIN, time.monotonic(), step)
        try:
            return function(*arguments, **options)
        finally:
            note(moment, END, time.monotonic())

    setattr(owner, name, told)


def _lines(notes: Path) -> list[list[str]]:
    text = notes.read_text("utf-8") if notes.exists() else ""
    return [line.split() for line in text.split("\n")[:-1]]


def begins(notes: Path, moment: str) -> list[float]:
    """When a moment began, each time; in seconds of the monotonic clock."""
    return [float(line[2]) for line in _lines(notes) if line[:2] == [moment, BEGIN]]


def ends(notes: Path, moment: str) -> list[float]:
    """When it ended, each time."""
    return [float(line[2]) for line in _lines(notes) if line[:2] == [moment, END]]


def longest(notes: Path, moment: str) -> float:
    """Seconds that a moment took at most."""
    both = zip(begins(notes, moment), ends(notes, moment), strict=False)
    return max(end - begin for begin, end in both)


def newest_step(notes: Path) -> int:
    """The newest update that was begun; 0 if none."""
    steps = [int(line[3]) for line in _lines(notes) if line[:2] == ["step", BEGIN]]
    return max(steps, default=0)
