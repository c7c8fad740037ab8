"""One fault: which test is the first to fail because of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tools.mutants.fault import Fault
from tools.mutants.plan import Plan, Stage
from tools.mutants.workspace import Run, Workspace

NOBODY = "none"  # in place of a tier: no test detects the fault


@dataclass(frozen=True)
class Result:
    """What came of a fault.

    Attributes:
        name: Of the fault.
        file: Of the product.
        core: See `Fault`.
        tier: The command that detects it: test, test-all or none.
        stage: See `plan.Stage`; empty if no test detects it.
        test: The first test that failed.
        ending: How: failed, crashed or hung.
        seconds: That it took.
        error: What kept the fault from being tried; empty if nothing did.
    """

    name: str
    file: str
    core: bool
    tier: str = NOBODY
    stage: str = ""
    test: str = ""
    ending: str = ""
    seconds: float = 0.0
    error: str = ""


class Unreliable:
    """Tests that fail without a fault as well, or not always; shared by all copies."""

    def __init__(self, known: list[str]) -> None:
        """Begin with those that an earlier run has found."""
        self._lock, self._tests = threading.Lock(), dict.fromkeys(known)

    def add(self, test: str) -> None:
        """Take note of one."""
        with self._lock:
            self._tests[test] = None

    def all(self) -> list[str]:
        """Return them in the order in which they were found."""
        with self._lock:
            return list(self._tests)


class Trials:
    """Tries faults, one after the other, in one copy of the tree."""

    def __init__(
        self,
        place: Workspace,
        plan: Plan,
        unreliable: Unreliable,
        told: Callable[[str], None],
        near: bool,
    ) -> None:
        """Try faults in `place`; `told` is called with what is not a result."""
        self._place, self._plan, self._unreliable, self._told = place, plan, unreliable, told
        self._near = near

    def attempt(self, fault: Fault) -> Result:
        """Return what comes of a fault."""
        began = time.monotonic()
        found = Result(fault.name, fault.file, fault.core)
        try:
            stages = self._plan.stages(fault)
            for stage in stages[:1] if self._near else stages:
                if (run := self._first_failure(fault, stage)) is not None:
                    found = replace(found, tier=stage.tier, stage=stage.name)
                    found = replace(found, test=run.test, ending=run.ending)
                    break
            else:
                found = replace(found, error="the nearest tests pass" if self._near else "")
        except (OSError, ValueError) as error:
            found = replace(found, error=str(error))
        return replace(found, seconds=round(time.monotonic() - began, 1))

    def _first_failure(self, fault: Fault, stage: Stage) -> Run | None:
        """Return the first failure of a stage that the fault causes; None if there is none."""
        skipped: list[str] = []  # here alone: what fails once and then does not
        while True:
            left_out = (*self._unreliable.all(), *skipped)
            files = [file for file in stage.files if file not in left_out]
            if not files:
                return None
            deselected = [f"--deselect={test}" for test in left_out]
            with self._place.mutated(fault):
                run = self._place.pytest(files, (*stage.selection, *stage.parallel, *deselected))
                if run.passed:
                    return None
                if not run.test:
                    raise ValueError(f"pytest ended without a test: {run.said[-400:]}")
                failing = self._failing_alone(run, stage.selection)
            if not failing:
                self._told(f"{fault.name}: {run.test} failed once, and then passed; left out here")
                skipped.append(run.test)
                continue
            clean = self._place.pytest([failing], stage.selection)
            if clean.passed:
                return run
            self._told(f"{run.test} {clean.ending} without any fault; left out from now on")
            self._unreliable.add(run.test)

    def _failing_alone(self, run: Run, selection: Sequence[str]) -> str:
        """Return what of a failed test fails again where nothing else runs: it or its file."""
        if run.ending == "hung":
            return run.test
        targets = (run.test, run.test.partition("::")[0])
        return next((one for one in targets if not self._place.pytest([one], selection).passed), "")
