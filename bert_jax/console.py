"""What a person sees: lines and progress bars on standard error, results on standard output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bert_jax.errors import printable

PLAIN_INTERVAL = 10.0  # seconds between progress lines where there is no terminal

_console = Console(stderr=True, highlight=False, soft_wrap=True)
_quiet = False


def be_quiet() -> None:
    """Silences this process, so that of many processes only one speaks."""
    global _quiet
    _quiet = True


def say(message: str) -> None:
    """Prints one line to standard error."""
    if not _quiet:
        # A closed terminal or pipe must not end a training run.
        with suppress(OSError):
            _console.print(printable(message), markup=False, emoji=False)


@contextmanager
def progress(task: str, total: int | None, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Shows progress with the time left: a bar on a terminal, a line now and then elsewhere.

    Yields:
        update(done, note): `done` of `total`, and a note such as the loss.
    """
    if _quiet:
        yield lambda done, note: None
    elif _console.is_terminal:
        with _bar() as bar:
            row = bar.add_task(task, total=total, completed=done, note="")
            yield lambda done, note: bar.update(row, completed=done, note=note)
    else:
        yield _plain_lines(task, total, done)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=_console,
    )


def _plain_lines(task: str, total: int | None, first: int) -> Callable[[int, str], None]:
    started = last = time.monotonic()

    def update(done: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_INTERVAL and done != total:
            return
        last = now
        text = f"{task} {done:,}"
        if total is not None:
            left = (now - started) / max(done - first, 1) * (total - done)
            text += f"/{total:,}, {_clock(left)} left"
        say(f"{text}  {note}".rstrip())

    return update


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
