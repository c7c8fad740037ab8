"""What Orbax does when something goes wrong, mended from outside.

All of it touches parts of Orbax that are not public. A version that has moved them loses a repair,
which the tests show, and not its checkpoints.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import jax

_LATE = (
    "Event loop is closed",
    # Of a loop that got no files to begin with, when it is removed.
    "'_UnixSelectorEventLoop' object has no attribute '_ssock'",
)


def keep_quiet() -> None:
    """Silences its log: every failure with a traceback for each thread, which it raises as well.

    A full disk made 300 lines.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def use_steady_clock() -> None:
    """Lets it measure its waits by a clock that is never set; else it gives up a save then."""
    with suppress(ImportError):
        from orbax.checkpoint._src.futures import future, signaling_client

        steady = SimpleNamespace(**{**vars(time), "time": time.monotonic})
        for module in (future, signaling_client):
            if hasattr(module, "time"):
                module.time = steady


def release_waiting() -> None:
    """Ends its threads that wait for another that failed; they would keep the process minutes."""
    if jax.process_count() > 1:  # what they wait for can come from another process
        return
    with suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.futures import future

        for thread in threading.enumerate():
            if isinstance(thread, future._SignalingThread):
                # What they were to do is not done, which is no news.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                thread.cancel()
                future.set_signals(thread._receive_signals, operation_id=thread._operation_id)


def ignore_late_failures() -> None:
    """Silences what fails in it after it gave up a save or restore: nobody waits for it."""
    hook, uncaught = sys.unraisablehook, sys.excepthook
    if getattr(hook, "ignores_late_failures", False):
        return

    def filtered(late: Any) -> None:
        code = getattr(late.object, "cr_code", None)
        orphaned = code is not None and "orbax" in code.co_filename
        if not orphaned and str(late.exc_value) not in _LATE:
            hook(late)

    def filtered_of_threads(kind: Any, error: BaseException, trace: Any) -> None:
        if str(error) not in _LATE:
            uncaught(kind, error, trace)

    filtered.ignores_late_failures = True  # type: ignore[attr-defined]
    sys.unraisablehook, sys.excepthook = filtered, filtered_of_threads
