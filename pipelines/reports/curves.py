"""Which curves a report has: those of metrics.jsonl, train and held out in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.reports.figures import Chart, Curve, Kind, Mark, wide
from pipelines.reports.report_tables import phase_ends
from pipelines.reports.run import Run

# Title, unit, key of the lines about updates (held out it begins with eval_), and whether the scale
# may be logarithmic.
_CHARTS = (
    ("Loss", "nats", "loss", False),
    ("Loss of masked tokens", "nats", "mlm_loss", False),
    ("Accuracy of masked tokens", "share", "mlm_accuracy", False),
    ("Loss of next sentence", "nats", "nsp_loss", False),
    ("Accuracy of next sentence", "share", "nsp_accuracy", False),
    ("Learning rate", "", "learning_rate", False),
    ("Gradient norm", "before clipping", "grad_norm", True),
    ("Throughput", "tokens/s, without padding", "tokens_per_second", False),
    ("Use of the devices", "share of their bfloat16 peak", "mfu", False),
)
# The same for every evaluation, or a function of a loss.
_LEFT_OUT = {"predictions", "sequences", "perplexity"}
_MOST = 16
_MOST_MARKS = 60  # of a kind


def charts(runs: Sequence[Run]) -> list[Chart]:
    """The figures of these runs; one without any value is left out."""
    known = {key for _, _, key, _ in _CHARTS} | _LEFT_OUT
    found = list(_CHARTS)
    for key in dict.fromkeys(key for run in runs for line in run.measured for key in line):
        name = key.removeprefix("eval_")
        if key.startswith("eval_") and name not in known:
            found.append((f"Held out: {name.replace('_', ' ')}", "", name, False))
    end = max([1.0, *(line["step"] for run in runs for line in run.lines[-1:])])
    marks = _marks(runs, end)
    names = [run.name for run in runs] if len(runs) > 1 else [""]
    shown = []
    for title, unit, key, logarithmic in found:
        curves = [one for number, run in enumerate(runs) for one in _of(run, number, key)]
        if curves:
            shown.append(
                Chart(title, unit, curves, logarithmic and wide(curves), marks, end, names)
            )
    return shown[:_MOST]


def _of(run: Run, number: int, key: str) -> list[Curve]:
    sources: list[tuple[Kind, str, list[dict[str, float]]]] = [
        ("train", key, run.trained),
        ("held-out", f"eval_{key}", run.measured),
    ]
    found = []
    for kind, name, lines in sources:
        there = [line for line in lines if name in line]
        if there:
            steps, values = (np.array([line[k] for line in there]) for k in ("step", name))
            found.append(Curve(number, kind, steps, values))
    return found


def _marks(runs: Sequence[Run], end: float) -> dict[Mark, dict[int, str]]:
    """Of one run all that happened; of several only the phases, if they have the same.

    The overview counts what else happened to them: the marks of eight runs would hide the curves.
    """
    ends = [phase_ends(run) for run in runs]
    marks: dict[Mark, dict[int, str]] = {}
    if all(one == ends[0] for one in ends):
        marks["phase"] = ends[0]
    if len(runs) == 1:
        marks["restart"] = dict.fromkeys(runs[0].restarts, "")
        marks["preempted"] = dict.fromkeys(runs[0].preemptions, "")
        marks["skipped"] = dict.fromkeys(runs[0].skipped, "")
    there = {
        kind: {step: label for step, label in sorted(steps.items()) if 0 <= step <= end}
        for kind, steps in marks.items()
    }
    return {kind: dict(list(steps.items())[:_MOST_MARKS]) for kind, steps in there.items() if steps}
