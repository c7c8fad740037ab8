"""Lines and progress bars on standard error; results go to standard output."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
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
from rich.text import Text

from bert_jax.runtime.errors import printable

PLAIN_INTERVAL = 10.0  # seconds between progress lines where there is no terminal

_console = Console(stderr=True, highlight=False, soft_wrap=True)
_quiet = False


def be_quiet() -> None:
    """Silence this process, so that only one of many processes prints."""
    global _quiet
    _quiet = True


def say(message: str) -> None:
    """Print one line to standard error."""
    if not _quiet:
        # A closed terminal or pipe must not end a training run.
        with suppress(OSError):
            _console.print(printable(message), markup=False, emoji=False)


def summary(title: str, since: float, then: Sequence[str] = (), **rows: object) -> None:
    """Print the results of a long command: a line, and names with values below it.

    Args:
        title: The line.
        since: `time.monotonic` at the start of the command.
        then: Arguments of the `bert-jax` command that is likely to be run next.
        rows: Name -> value, in this order; "_" in a name is printed as a space. Empty values are
            left out.
    """
    say(title)
    if _quiet:
        return
    rows["took"] = clock(time.monotonic() - since)
    rows["next"] = shlex.join(["bert-jax", *then]) if then else ""
    lines = {name.replace("_", " "): value for name, value in rows.items() if value}
    width = max(map(len, lines))
    for name, value in lines.items():
        with suppress(OSError):
            _console.print(Text.assemble((f"  {name:{width}}  ", "cyan"), printable(str(value))))


@contextmanager
def progress(task: str, total: int | None, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Show progress and the time left: a bar on a terminal, a line every 10 seconds elsewhere.

    Yields:
        update(done, note): `done` of `total`, and a note such as the loss.
    """
    if _quiet:
        yield lambda done, note: None
    elif _has_bars():
        with _bar() as bar:
            row = bar.add_task(task, total=total, completed=done, note="")
            yield lambda done, note: bar.update(row, completed=done, note=note)
    else:
        yield _plain_lines(task, total)


def _has_bars() -> bool:
    # Rich also counts a pipe as interactive if FORCE_COLOR is set, as in many CI systems.
    return _console.is_interactive and _console.file.isatty()


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


def _plain_lines(task: str, total: int | None) -> Callable[[int, str], None]:
    last = time.monotonic()
    start: tuple[float, int] | None = None  # of the first update, which may include compilation

    def update(done: int, note: str) -> None:
        nonlocal last, start
        now = time.monotonic()
        since, first = start = start or (now, done)
        if now - last < PLAIN_INTERVAL and done != total:
            return
        last = now
        text = f"{task} {done:,}"
        if total is not None:
            text += f"/{total:,}"
            if done > first or done == total:
                text += f", {clock((now - since) / max(done - first, 1) * (total - done))} left"
        say(f"{text}  {note}".rstrip())

    return update


def clock(seconds: float) -> str:
    """Format a duration as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
