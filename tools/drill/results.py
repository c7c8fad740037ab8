"""Counts the tries of a fault, and checks how a process ended."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from support.process_harness import Process
from tools.drill.report import Row, is_readable


@dataclass
class Results:
    """Results of the tries of one fault; see `Row`."""

    fault: str
    tries: int = 0
    survived: int = 0
    lost: int | None = None
    message: str = ""
    failures: list[str] = field(default_factory=list)

    def add(
        self,
        action: str,
        *problems: str,
        message: str = "",
        lost: int | None = None,
        triggered: bool = True,
    ) -> None:
        """Count a try, which is survived if there is no problem.

        Args:
            action: What the try did.
            problems: What went wrong; empty texts are ignored.
            message: Last line that a user saw.
            lost: Steps that must be repeated.
            triggered: Whether the fault occurred. If not, the try counts only if it went wrong.
        """
        failures = [problem for problem in problems if problem]
        if message and not is_readable(message):
            failures.append(f"unreadable message {message!r}")
        if triggered or failures:
            self.tries += 1
            self.survived += not failures
        self.message = message or self.message
        if lost is not None:
            self.lost = max(lost, self.lost or 0)
        if failures:
            self.failures.append(f"{action}: {'; '.join(failures)}")

    def finish(self, folder: Path) -> Row:
        """Return the row; remove the folder of the trial unless something failed."""
        if not self.failures:
            shutil.rmtree(folder)
        return self.row()

    def row(self) -> Row:
        """Return the row for the table."""
        failures = tuple(self.failures)
        return Row(self.fault, self.tries, self.survived, self.lost, self.message, failures)


def exit_problem(process: Process, *codes: int) -> str:
    """Return what is wrong with the end of a process; empty if it has one of these exit codes."""
    try:
        code = process.wait()
    except TimeoutError as error:
        return str(error)
    if code not in codes:
        return f"exit code {code}, not {' or '.join(map(str, codes))}: {process.last_line!r}"
    if "Traceback" in process.stderr:
        return f"exit code {code} after a traceback"
    if code > 0 and not is_readable(process.last_line):
        return f"exit code {code} with the line {process.last_line!r}"
    return ""
