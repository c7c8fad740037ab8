"""Results in a file that grows while faults are tried, and as a table."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tools.mutants.trial import NOBODY, Result, Unreliable


class Log:
    """The results so far, in a JSON file that is rewritten after each.

    Attributes:
        results: By name of the fault.
        unreliable: Tests that tell nothing.
    """

    def __init__(self, path: Path | None, before: Path | None) -> None:
        """Write to `path`, beginning with the results in `before`, if there are any."""
        given = json.loads(before.read_text("utf-8")) if before is not None else {}
        self._path, self._lock = path, threading.Lock()
        known = (Result(**one) for one in given.get("results", ()))
        self.results = {result.name: result for result in known}
        self.unreliable = Unreliable(given.get("unreliable", []))

    def add(self, result: Result) -> None:
        """Write down a result."""
        with self._lock:
            self.results[result.name] = result
            if self._path is not None:
                found = {
                    "unreliable": self.unreliable.all(),
                    "results": [asdict(one) for one in self.results.values()],
                }
                draft = self._path.with_name(f"{self._path.name}.tmp")
                draft.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
                draft.replace(self._path)


def line(result: Result) -> str:
    """Return a result as a line of text."""
    if result.error:
        return f"{result.name}: not tried: {result.error}"
    if result.tier == NOBODY:
        return f"{result.name}: NOT DETECTED ({result.seconds:.0f} s)"
    ending = "" if result.ending == "failed" else f" {result.ending}"
    found = f"make {result.tier} ({result.stage})"
    return f"{result.name}: {found}: {result.test}{ending} ({result.seconds:.0f} s)"


def summary(results: Sequence[Result]) -> str:
    """Return how many faults were detected, and by what."""
    tried = [result for result in results if not result.error]
    core = [result for result in tried if result.core]
    tiers = Counter(result.tier for result in tried)
    soon = sum(result.tier == "test" for result in core)
    share = f" ({soon / len(core):.0%})" if core else ""
    text = (
        f"{len(tried)} faults: {tiers['test']} detected by `make test`, {tiers['test-all']} more by"
        f" `make test-all`, {tiers[NOBODY]} by none. Of {len(core)} core faults `make test` alone"
        f" detects {soon}{share}."
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
        lines += ["", f"Left out, because they fail without a fault as well: {tests}."]
    return "\n".join(lines) + "\n"
