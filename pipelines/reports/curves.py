"""Charts of a report: the curves of metrics.jsonl, training and evaluation in one figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.reports.figures import Chart, Curve, Kind, Mark, wide
from pipelines.reports.report_tables import phase_ends
from pipelines.reports.run import Run

# Title, unit, key in metrics.jsonl (evaluations: with the prefix eval_), and True if the scale may
# be logarithmic.
_CHARTS = (
    ("Loss", "nats", "loss", False),
    ("Loss of masked tokens", "nats", "mlm_loss", False),
    ("Accuracy of masked tokens", "fraction", "mlm_accuracy", False),
    ("Loss of next sentence", "nats", "nsp_loss", False),
    ("Accuracy of next sentence", "fraction", "nsp_accuracy", False),
    ("Learning rate", "", "learning_rate", False),
    ("Gradient norm", "before clipping", "grad_norm", True),
    ("Throughput", "tokens/s, without padding", "tokens_per_second", False),
    ("Use of the devices", "fraction of their bfloat16 peak", "mfu", False),
)
# The same in every evaluation of a phase, or a function of a loss.
_NOT_DRAWN = {"predictions", "sequences", "perplexity", "length"}
_MAX_CHARTS = 16
_MAX_MARKS = 60  # of a kind


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts of these runs; those without values are left out."""
    listed = {key for _, _, key, _ in _CHARTS} | _NOT_DRAWN
    specs = list(_CHARTS)
    evaluation = runs[0].evaluation.capitalize()
    for key in dict.fromkeys(key for run in runs for line in run.evaluated for key in line):
        name = key.removeprefix("eval_")
        if key.startswith("eval_") and name not in listed:
            specs.append((f"{evaluation}: {name.replace('_', ' ')}", "", name, False))
    end = max([1.0, *(line["step"] for run in runs for line in run.lines[-1:])])
    marks = _marks(runs, end)
    names = [run.name for run in runs] if len(runs) > 1 else [""]
    drawn = []
    for title, unit, key, logarithmic in specs:
        curves = [curve for number, run in enumerate(runs) for curve in _curves(run, number, key)]
        if curves:
            logarithmic = logarithmic and wide(curves)
            drawn.append(Chart(title, unit, curves, logarithmic, marks, end, names))
    return drawn[:_MAX_CHARTS]


def _curves(run: Run, number: int, key: str) -> Iterator[Curve]:
    sources: list[tuple[Kind, str, list[dict[str, float]]]] = [
        ("train", key, run.trained),
        ("held-out", f"eval_{key}", run.evaluated),
    ]
    for kind, name, lines in sources:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            steps, values = np.array(points).T
            yield Curve(number, kind, steps, values)


def _marks(runs: Sequence[Run], end: float) -> dict[Mark, dict[int, str]]:
    """Return all events of one run; of several runs only the phases, if all have the same.

    The marks of eight runs would hide the curves. The overview counts their other events.
    """
    ends = [phase_ends(run) for run in runs]
    marks: dict[Mark, dict[int, str]] = {}
    if all(of_run == ends[0] for of_run in ends):
        marks["phase"] = ends[0]
    if len(runs) == 1:
        marks["restart"] = dict.fromkeys(runs[0].restarts, "")
        marks["preempted"] = dict.fromkeys(runs[0].preemptions, "")
        marks["skipped"] = dict.fromkeys(runs[0].skipped, "")
    visible = {
        kind: [(step, label) for step, label in sorted(steps.items()) if 0 <= step <= end]
        for kind, steps in marks.items()
    }
    return {kind: dict(steps[:_MAX_MARKS]) for kind, steps in visible.items() if steps}
