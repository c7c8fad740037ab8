"""Counts the tries of a fault, and how a process has to end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from support.process_harness import Life
from tools.drill.report import Row, is_readable
from tools.drill.stage import Stage


@dataclass
class Tally:
    """What came of the tries of `fault`; see `Row`."""

    fault: str
    tries: int = 0
    survived: int = 0
    lost: int | None = None
    message: str = ""
    failures: list[str] = field(default_factory=list)

    def judge(
        self,
        what: str,
        *complaints: str,
        message: str = "",
        lost: int | None = None,
        struck: bool = True,
    ) -> None:
        """Counts a try that did `what`: survived if nothing is to be complained of.

        Args:
            what: Was done.
            complaints: Empty ones count as none.
            message: That a user saw.
            lost: Steps.
            struck: Whether the fault came about; if not, the try only counts if it went wrong.
        """
        found = [complaint for complaint in complaints if complaint]
        if message and not is_readable(message):
            found.append(f"it said: {message!r}")
        if struck or found:
            self.tries += 1
            self.survived += not found
        self.message = message or self.message
        if lost is not None:
            self.lost = max(lost, self.lost or 0)
        if found:
            self.failures.append(f"{what}: {'; '.join(found)}")

    def closed(self, stage: Stage, place: Path) -> Row:
        """The row of a trial in `place`, which is removed unless something failed."""
        if not self.failures:
            stage.remove(place)
        return self.row()

    def row(self) -> Row:
        """For the table."""
        failures = tuple(self.failures)
        return Row(self.fault, self.tries, self.survived, self.lost, self.message, failures)


def ended(life: Life, *codes: int) -> str:
    """What is wrong with the end of a process that should have one of these exit codes."""
    try:
        code = life.end()
    except TimeoutError as error:
        return str(error)
    if code not in codes:
        return f"exit code {code}, not {' or '.join(map(str, codes))}: {life.last_line!r}"
    if "Traceback" in life.said:
        return f"exit code {code} after a traceback"
    if code > 0 and not is_readable(life.last_line):
        return f"exit code {code} with the line {life.last_line!r}"
    return ""
