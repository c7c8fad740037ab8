"""The signals that ask a process to end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

# Ctrl-C, a preempted machine, a closed terminal.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(KeyboardInterrupt):
    """A signal came where nothing needs to be saved.

    Not an Exception, so that no handler for damaged files or failed reads takes it for one.
    """


def take_over(
    handler: Callable[[int, FrameType | None], None], but: tuple[int, ...] = ()
) -> dict[int, Any]:
    """Sets the handler of these signals, except of those in `but`; returns what was set before.

    An ignored signal stays ignored, as under ``nohup``.
    """
    heeded = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded if number not in but}


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handler that ends whatever runs.

    Raises:
        StoppedError: Always.
    """
    raise StoppedError(signal.Signals(number).name)
