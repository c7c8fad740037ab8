"""Waiting for conditions with a time limit."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

_POLL = 0.01  # seconds


def wait_until(
    condition: Callable[[], Any],
    process: subprocess.Popen[Any] | None = None,
    seconds: float = 120.0,
) -> None:
    """Wait until a condition holds or a process ends; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds"
        time.sleep(_POLL)
