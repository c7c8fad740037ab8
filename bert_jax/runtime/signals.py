"""Handlers of the signals that request a process to end."""

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
    """Set the handler of these signals, except of those in `but`; return the previous handlers.

    An ignored signal stays ignored, as under ``nohup``.
    """
    handled = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in handled if number not in but}


def raise_on_signals(message: str) -> None:
    """Make the first signal raise an error with `message`, for a command that has to clean up.

    Raises:
        PreemptedError: A signal was received.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        disregard()
        raise PreemptedError(f"{signal.Signals(number).name}: {message}")

    take_over(handler)


def disregard() -> None:
    """Ignore the signals at the end of a command, so that they do not change its exit code.

    Python restores the default handlers while it ends.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Print a line and exit with code 75: the handler where nothing needs to be saved.

    It raises no exception. One is lost when the signal arrives during a destructor or a callback
    of the garbage collector.
    """
    show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    name = signal.Signals(number).name
    line = f"{show_cursor}bert-jax: {name} received; run the same command again to restart\n"
    with suppress(OSError):
        os.write(2, line.encode())
    os._exit(PreemptedError.exit_code)
