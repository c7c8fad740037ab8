"""The trial of a fault: find the first test that fails because of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tools.mutants.fault import Fault
from tools.mutants.plan import Plan, Stage
from tools.mutants.workspace import Run, Workspace

NOT_DETECTED = "none"  # instead of a tier


@dataclass(frozen=True)
class Result:
    """Result of the trial of a fault.

    Attributes:
        name: Name of the fault.
        file: Changed file of the product.
        core: See `Fault`.
        tier: The command that detects it: test, test-all or none.
        stage: See `plan.Stage`; empty if no test detects it.
        test: The first test that failed.
        ending: How it failed: failed, crashed or hung.
        seconds: Duration of the trial.
        error: Why the fault could not be tried; empty if it was.
    """

    name: str
    file: str
    core: bool
    tier: str = NOT_DETECTED
    stage: str = ""
    test: str = ""
    ending: str = ""
    seconds: float = 0.0
    error: str = ""


class Unreliable:
    """Tests that also fail without a fault; shared by all copies."""

    def __init__(self, tests: list[str]) -> None:
        """Start with the tests of an earlier run."""
        self._lock, self._tests = threading.Lock(), dict.fromkeys(tests)

    def add(self, test: str) -> None:
        """Add a test."""
        with self._lock:
            self._tests[test] = None

    def all(self) -> list[str]:
        """Return the tests in the order of their addition."""
        with self._lock:
            return list(self._tests)


class Trials:
    """Tries faults one by one in one copy of the tree."""

    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        unreliable: Unreliable,
        on_message: Callable[[str], None],
        near: bool,
    ) -> None:
        """Try faults in `workspace`; `on_message` receives notes about unreliable tests."""
        self._workspace, self._plan, self._unreliable = workspace, plan, unreliable
        self._on_message = on_message
        self._near = near

    def attempt(self, fault: Fault) -> Result:
        """Return the result of a fault."""
        started = time.monotonic()
        result = Result(fault.name, fault.file, fault.core)
        try:
            stages = self._plan.stages(fault)
            for stage in stages[:1] if self._near else stages:
                if (run := self._first_failure(fault, stage)) is not None:
                    result = replace(result, tier=stage.tier, stage=stage.name)
                    result = replace(result, test=run.test, ending=run.ending)
                    break
            else:
                result = replace(result, error="the nearest tests pass" if self._near else "")
        except (OSError, ValueError) as error:
            result = replace(result, error=str(error))
        return replace(result, seconds=round(time.monotonic() - started, 1))

    def _first_failure(self, fault: Fault, stage: Stage) -> Run | None:
        """Return the first failure of a stage that the fault causes; None if there is none."""
        skipped: list[str] = []  # only here: tests that fail once and then pass
        while True:
            excluded = (*self._unreliable.all(), *skipped)
            files = [file for file in stage.files if file not in excluded]
            if not files:
                return None
            deselected = [f"--deselect={test}" for test in excluded]
            with self._workspace.mutated(fault):
                run = self._workspace.pytest(
                    files, (*stage.selection, *stage.parallel, *deselected)
                )
                if run.passed:
                    return None
                if not run.test:
                    raise ValueError(f"pytest ended without a test: {run.output[-400:]}")
                failing = self._failing_alone(run, stage.selection)
            if not failing:
                self._on_message(
                    f"{fault.name}: {run.test} failed once and then passed; excluded here"
                )
                skipped.append(run.test)
                continue
            clean = self._workspace.pytest([failing], stage.selection)
            if clean.passed:
                return run
            self._on_message(f"{run.test} {clean.ending} without a fault; excluded from now on")
            self._unreliable.add(run.test)

    def _failing_alone(self, run: Run, selection: Sequence[str]) -> str:
        """Return the failed test or its file, if one of them fails again alone; empty otherwise."""
        if run.ending == "hung":
            return run.test
        targets = (run.test, run.test.partition("::")[0])
        for target in targets:
            if not self._workspace.pytest([target], selection).passed:
                return target
        return ""
