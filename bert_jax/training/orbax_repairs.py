"""Repairs of what Orbax does when something goes wrong.

They patch private parts of Orbax, because its public options have no equivalent (each function
says which option comes closest). A version that moves these parts loses a repair, which the tests
detect, and no checkpoint.
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
    # From the removal of an event loop that never got its file descriptors.
    "'_UnixSelectorEventLoop' object has no attribute '_ssock'",
)


def keep_quiet() -> None:
    """Silence its log: a traceback in each thread for every failure that it raises as well.

    A full disk made 300 lines.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def use_steady_clock() -> None:
    """Let it measure its waits by a clock that nobody sets.

    When the system clock jumps forward, Orbax gives up a save. The public ``timeout_secs`` of
    AsyncOptions only makes the jump longer that it takes.
    """
    with suppress(ImportError):
        from orbax.checkpoint._src.futures import future, signaling_client

        steady = SimpleNamespace(**{**vars(time), "time": time.monotonic})
        for module in (future, signaling_client):
            if hasattr(module, "time"):
                module.time = steady


def release_waiting() -> None:
    """End its threads that wait for a failed one; they would keep the process alive for minutes.

    ``CheckpointManager.close`` waits for them, and has no timeout.
    """
    if jax.process_count() > 1:  # what they wait for can come from another process
        return
    with suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.futures import future

        for thread in threading.enumerate():
            if isinstance(thread, future._SignalingThread):
                # Their tasks are not done, which was reported already.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                thread.cancel()
                future.set_signals(thread._receive_signals, operation_id=thread._operation_id)


def ignore_late_failures() -> None:
    """Silence failures in it after it gave up a save or restore: nothing waits for them.

    They reach Python's hooks for unhandled errors, not the caller.
    """
    hook, uncaught = sys.unraisablehook, sys.excepthook
    if getattr(hook, "ignores_late_failures", False):
        return

    def drop_late(late: Any) -> None:
        code = getattr(late.object, "cr_code", None)
        orphaned = code is not None and "orbax" in code.co_filename
        if not orphaned and str(late.exc_value) not in _LATE:
            hook(late)

    def drop_late_of_threads(kind: Any, error: BaseException, trace: Any) -> None:
        if str(error) not in _LATE:
            uncaught(kind, error, trace)

    drop_late.ignores_late_failures = True  # type: ignore[attr-defined]
    sys.unraisablehook, sys.excepthook = drop_late, drop_late_of_threads
