"""What the drill found: a row per fault."""

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
    """One fault.

    Attributes:
        fault: What was done to what.
        tries: How often.
        survived: After how many of them everything held that docs/reliability.md promises.
        lost: Most steps that had to be done again after one try; None where no step can be lost.
        message: The newest line that a user saw; empty where nothing is to be said.
        failures: What went wrong, a line each, with what is needed to see it again.
        skipped: Why it could not be tried here.
    """

    fault: str
    tries: int = 0
    survived: int = 0
    lost: int | None = None
    message: str = ""
    failures: tuple[str, ...] = ()
    skipped: str = ""

    def __add__(self, other: Row) -> Row:
        """Both together, of the same fault."""
        known = [row.lost for row in (self, other) if row.lost is not None]
        return replace(
            self,
            tries=self.tries + other.tries,
            survived=self.survived + other.survived,
            lost=max(known, default=None),
            message=other.message or self.message,
            failures=self.failures + other.failures,
            skipped=self.skipped or other.skipped,
        )

    @property
    def held(self) -> bool:
        """Whether nothing was lost; a fault that struck nobody shows nothing."""
        tried = self.tries > 0 or bool(self.skipped)
        return tried and self.survived == self.tries and not self.failures


def is_readable(line: str) -> bool:
    """Whether a message is one line of words."""
    return bool(line) and len(line) < 500 and line.isprintable() and "Traceback" not in line


def table(rows: Iterable[Row]) -> Table:
    """The rows for a person."""
    shown = Table("fault", "tries", "survived", "lost steps", "message", title="drill")
    for column in (1, 2, 3):
        shown.columns[column].justify = "right"
    for row in rows:
        lost = "-" if row.lost is None else str(row.lost)
        numbers = ("skipped", "", "") if row.skipped else (str(row.tries), str(row.survived), lost)
        style = "" if row.held else "bold red"
        shown.add_row(Text(row.fault), *numbers, Text(row.skipped or row.message), style=style)
    return shown


def show(rows: list[Row], seed: int, began: float) -> bool:
    """Prints the table and what failed; whether all held."""
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table(rows))
    for row in rows:
        for failure in row.failures:
            console.print(f"FAILED {row.fault}: {failure}", markup=False, style="red")
    tried, bad = sum(row.tries for row in rows), [row for row in rows if not row.held]
    lost = sum(row.tries - row.survived for row in rows)
    skipped = sum(bool(row.skipped) for row in rows)
    console.print(
        f"seed {seed}: {tried:,} tries of {len(rows)} faults in {time.monotonic() - began:.0f} s;"
        f" {lost} lost; {len(bad)} faults not survived; {skipped} could not be tried here"
    )
    return not bad
