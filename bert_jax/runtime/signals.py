"""The signals that ask a process to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from bert_jax.runtime.errors import PreemptedError

# Ctrl-C, a preempted machine, a closed terminal.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def take_over(
    handler: Callable[[int, FrameType | None], None], but: tuple[int, ...] = ()
) -> dict[int, Any]:
    """Sets the handler of these signals, except of those in `but`; returns what was set before.

    An ignored signal stays ignored, as under ``nohup``.
    """
    heeded = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded if number not in but}


def raise_on_signals(what: str) -> None:
    """For a command that has to clean up: the signals raise, once, and `what` is said.

    Raises:
        PreemptedError: When one comes.
    """

    def told(number: int, frame: FrameType | None) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise PreemptedError(f"{signal.Signals(number).name}: {what}")

    take_over(told)


def disregard() -> None:
    """For the end of a command: what it says with its exit code holds whatever comes now.

    While Python ends it restores the default handlers, which would end the process with another.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handler for where nothing needs to be saved: ends the process with a line and code 75.

    It raises nothing, because an exception is lost when the signal comes while a callback of the
    garbage collector or a destructor runs.
    """
    shown = "\x1b[?25h" if os.isatty(2) else ""  # the cursor, which a progress bar hides
    line = f"{shown}bert-jax: {signal.Signals(number).name}; the same command starts again\n"
    with suppress(OSError):
        os.write(2, line.encode())
    os._exit(PreemptedError.exit_code)
