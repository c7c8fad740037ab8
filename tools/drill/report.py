"""The results of the drill: a row per fault."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH = 180  # columns, where there is no terminal


@dataclass(frozen=True)
class Row:
    """Results of one fault.

    Attributes:
        fault: Name of the fault.
        tries: How often it was injected.
        survived: Number of tries after which everything in docs/reliability.md was true.
        lost: Most steps that had to be repeated after one try; None where no step can be lost.
        message: Newest line that a user saw; empty where no line is expected.
        failures: What went wrong, a line each, with what is needed to reproduce it.
        skipped: Why the fault cannot be injected here.
    """

    fault: str
    tries: int = 0
    survived: int = 0
    lost: int | None = None
    message: str = ""
    failures: tuple[str, ...] = ()
    skipped: str = ""

    def __add__(self, other: Row) -> Row:
        """Return the sum of two rows of the same fault."""
        losses = [row.lost for row in (self, other) if row.lost is not None]
        return replace(
            self,
            tries=self.tries + other.tries,
            survived=self.survived + other.survived,
            lost=max(losses, default=None),
            message=other.message or self.message,
            failures=self.failures + other.failures,
            skipped=self.skipped or other.skipped,
        )

    @property
    def passed(self) -> bool:
        """Return whether all tries were survived; without a try the fault did not pass."""
        tried = self.tries > 0 or bool(self.skipped)
        return tried and self.survived == self.tries and not self.failures


def is_readable(line: str) -> bool:
    """Return whether a message is one line of words."""
    return bool(line) and len(line) < 500 and line.isprintable() and "Traceback" not in line


def table(rows: Iterable[Row]) -> Table:
    """Return the rows as a table."""
    result = Table("fault", "tries", "survived", "lost steps", "message", title="drill")
    for column in (1, 2, 3):
        result.columns[column].justify = "right"
    for row in rows:
        lost = "-" if row.lost is None else str(row.lost)
        numbers = ("skipped", "", "") if row.skipped else (str(row.tries), str(row.survived), lost)
        style = "" if row.passed else "bold red"
        result.add_row(Text(row.fault), *numbers, Text(row.skipped or row.message), style=style)
    return result


def print_report(rows: list[Row], seed: int, started: float) -> bool:
    """Print the table and all failures; return whether every fault passed."""
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table(rows))
    for row in rows:
        for failure in row.failures:
            console.print(f"FAILED {row.fault}: {failure}", markup=False, style="red")
    failed_tries = sum(row.tries - row.survived for row in rows)
    failed_faults = sum(not row.passed for row in rows)
    console.print(
        f"seed {seed}: {sum(row.tries for row in rows):,} tries of {len(rows)} faults in"
        f" {time.monotonic() - started:.0f} s; {failed_tries} tries failed; {failed_faults} faults"
        f" failed; {sum(bool(row.skipped) for row in rows)} faults skipped"
    )
    return not failed_faults
