"""Results of all faults: a JSON file, lines of text and a table."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tools.mutants.trial import NOT_DETECTED, Result, Unreliable


class Log:
    """The results so far, in a JSON file that is rewritten after each.

    Attributes:
        results: Fault name -> result.
        unreliable: Tests whose failures do not count.
    """

    def __init__(self, path: Path | None, before: Path | None) -> None:
        """Write to `path`, starting with the results in `before`."""
        previous = json.loads(before.read_text("utf-8")) if before is not None else {}
        self._path, self._lock = path, threading.Lock()
        results = (Result(**fields) for fields in previous.get("results", ()))
        self.results = {result.name: result for result in results}
        self.unreliable = Unreliable(previous.get("unreliable", []))

    def add(self, result: Result) -> None:
        """Add a result and write the file."""
        with self._lock:
            self.results[result.name] = result
            if self._path is not None:
                content = {
                    "unreliable": self.unreliable.all(),
                    "results": [asdict(result) for result in self.results.values()],
                }
                draft = self._path.with_name(f"{self._path.name}.tmp")
                draft.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
                draft.replace(self._path)


def line(result: Result) -> str:
    """Return a result as a line of text."""
    if result.error:
        return f"{result.name}: not tried: {result.error}"
    if result.tier == NOT_DETECTED:
        return f"{result.name}: NOT DETECTED ({result.seconds:.0f} s)"
    ending = "" if result.ending == "failed" else f" {result.ending}"
    command = f"make {result.tier} ({result.stage})"
    return f"{result.name}: {command}: {result.test}{ending} ({result.seconds:.0f} s)"


def summary(results: Sequence[Result]) -> str:
    """Return how many faults were detected, and by what."""
    tried = [result for result in results if not result.error]
    core = [result for result in tried if result.core]
    tiers = Counter(result.tier for result in tried)
    detected = sum(result.tier == "test" for result in core)
    fraction = f" ({detected / len(core):.0%})" if core else ""
    text = (
        f"{len(tried)} faults: {tiers['test']} detected by `make test`, {tiers['test-all']} more by"
        f" `make test-all`, {tiers[NOT_DETECTED]} by none."
        f" Of {len(core)} core faults `make test` alone detects {detected}{fraction}."
    )
    failed = len(results) - len(tried)
    return text + (f" {failed} could not be tried." if failed else "")


def markdown(results: Sequence[Result], unreliable: Sequence[str]) -> str:
    """Return the table, with the summary below it."""
    lines = [
        "| Fault | File | Core | Tier | First test |",
        "|-------|------|------|------|------------|",
    ]
    for result in results:
        test = f"`{result.test}`" if result.test else result.error
        cells = (
            result.name,
            f"`{result.file}`",
            "yes" if result.core else "",
            "not tried" if result.error else result.tier,
            test.replace("|", "\\|") + ("" if result.ending in ("", "failed") else " (hung)"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", summary(results)]
    if unreliable:
        tests = ", ".join(f"`{test}`" for test in unreliable)
        lines += ["", f"Excluded, because they also fail without a fault: {tests}."]
    return "\n".join(lines) + "\n"
