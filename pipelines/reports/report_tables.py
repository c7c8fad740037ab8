"""What a report shows as tables: the state of runs, their measurements and their configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import numpy as np
import yaml

from bert_jax.config.phases import Phase, number_of
from bert_jax.config.run import RunConfig, as_dict, flatten
from bert_jax.runtime.errors import printable
from bert_jax.runtime.paths import absolute
from bert_jax.training.checkpoint import FOLDER
from pipelines.reports.run import Run, size
from pipelines.tasks.config import FinetuneConfig, TaskDataConfig
from pipelines.tasks.reporting import cut

_MOST_ROWS = 40  # of evaluations
_MOST_CLASSES = 20
NONE = "-"
# Of the masked tokens of held-out text.
PUBLISHED = (("BERT-Base", 3.99), ("BERT-Large", 3.23))
# Follow from other keys, or differ for every run.
_OWN = ("run_dir",)


@dataclass(frozen=True)
class Table:
    """Rows of words; the first cell of each says what the others are of.

    Attributes:
        head: Names of the columns.
        rows: Cells.
        marked: Numbers of the rows that stand out.
        words: Whether the cells are words, not numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = field(default_factory=frozenset)
    words: bool = False


@dataclass(frozen=True)
class Confusion:
    """True classes by predicted ones.

    Attributes:
        classes: Names.
        rows: Per true class: its name, its examples, and per predicted class the count and the
            share of the row.
        left_out: Classes that are not shown.
    """

    classes: Sequence[str]
    rows: Sequence[tuple[str, int, Sequence[tuple[int, float]]]]
    left_out: int


def moment(seconds: float) -> str:
    """A time, in words."""
    if not 0 < seconds < 4e9:
        return NONE
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float) -> str:
    """A duration, in words."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def number(value: float | None) -> str:
    """A measured number, with a sensible number of digits."""
    if value is None:
        return NONE
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 0.001 <= abs(value) < 1e6:
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"
    return f"{value:.4g}"


def facts(run: Run) -> list[tuple[str, str]]:
    """What stands at the top, as (name, value)."""
    config, state = run.config, run.state
    last = run.trained[-1] if run.trained else {}
    network = config.model
    found = [
        ("state", state[0] + (f": {state[1]}" if state[1] else "")),
        ("step", f"{run.step:,} of {config.steps:,}"),
        ("what", f"{run.kind}, {network.layers} layers of {network.hidden_size}"),
        ("time in training", span(last["seconds"]) if "seconds" in last else NONE),
        ("throughput", _throughput(run)),
        ("tokens trained on", f"{int(last['tokens']):,}" if "tokens" in last else NONE),
    ]
    speeds = [line["mfu"] for line in run.trained if "mfu" in line]
    if speeds:
        found.append(("of the devices' peak", f"{np.median(speeds):.1%} (median)"))
    if run.sessions:
        found += [
            ("first start", moment(run.sessions[0].begun)),
            ("last line", moment(run.written)),
        ]
    return found


def overview(runs: Sequence[Run]) -> Table:
    """The same of several runs, a column each, and how often the curves do not tell."""
    columns = [dict(facts(run)) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name, NONE) for column in columns)] for name in names]
    for name, happened in (
        ("restarts", [run.restarts for run in runs]),
        ("told to stop, or preempted", [run.preemptions for run in runs]),
        ("batches skipped", [run.skipped for run in runs]),
    ):
        if any(happened):
            rows.append([name, *(f"{len(steps):,}" for steps in happened)])
    return Table(["run", *(run.name for run in runs)], rows)


def _throughput(run: Run) -> str:
    speeds = [line["tokens_per_second"] for line in run.trained if "tokens_per_second" in line]
    return f"{np.median(speeds):,.0f} tokens/s (median)" if speeds else NONE


def evaluations(runs: Sequence[Run]) -> Table | None:
    """What was measured on held-out data: of one run over its steps, of several the last."""
    names = list(dict.fromkeys(key for run in runs for line in run.measured for key in line))
    names = [name for name in names if name.startswith("eval_")]
    if not names:
        return None
    if len(runs) > 1:
        lasts = [run.measured[-1] if run.measured else {} for run in runs]
        rows = [["step", *(number(last.get("step")) for last in lasts)]]
        rows += [[_plain(key), *(number(last.get(key)) for last in lasts)] for key in names]
        return Table(["last measured", *(run.name for run in runs)], rows)
    lines = runs[0].measured
    if len(lines) > _MOST_ROWS:
        kept = np.unique(np.linspace(0, len(lines) - 1, _MOST_ROWS).round().astype(int))
        lines = [lines[place] for place in kept]
    best = min(lines, key=lambda line: line.get("eval_loss", 0.0))
    marked = frozenset({lines.index(best)} if "eval_loss" in best else ())
    rows = [[number(line["step"]), *(number(line.get(key)) for key in names)] for line in lines]
    return Table(["step", *map(_plain, names)], rows, marked)


def _plain(key: str) -> str:
    return key.removeprefix("eval_").replace("_", " ")


def perplexities(runs: Sequence[Run]) -> Table | None:
    """Held-out perplexity of runs, last and best of each length, above what was published."""
    rows = []
    for run in runs:
        phases, found = run.config.phases, dict[int, list[float]]()
        for line in run.measured if isinstance(run.config, RunConfig) else ():
            if "eval_perplexity" in line:
                phase = phases[min(number_of(int(line["step"]), phases), len(phases)) - 1]
                found.setdefault(phase.length, []).append(line["eval_perplexity"])
        for length, values in found.items():
            rows.append([f"{run.name}, length {length}", number(values[-1]), number(min(values))])
    if not rows:
        return None
    published = [[f"{name}, as published", f"{value:.2f}", NONE] for name, value in PUBLISHED]
    return Table(["held-out perplexity of masked tokens", "last", "best"], rows + published)


def results(run: Run) -> Table | None:
    """The numbers of eval_results.json."""
    rows = [
        [key.replace("_", " "), number(float(value))]
        for key, value in run.results.items()
        if type(value) in (int, float) and abs(value) < 1e300
    ]
    return Table(["last evaluation", run.name], rows) if rows else None


def confusion(run: Run) -> Confusion | None:
    """The confusion matrix of a classification; None where there is none or it is damaged."""
    found = run.results.get("confusion")
    if not isinstance(found, dict):
        return None
    classes, counts = found.get("classes"), found.get("true_by_predicted")
    if not isinstance(classes, list) or not isinstance(counts, list):
        return None
    names = [str(name) for name in classes]
    try:
        matrix = np.array(counts, np.int64)
    except (ValueError, TypeError, OverflowError):
        return None
    if matrix.shape != (len(names), len(names)) or not names or (matrix < 0).any():
        return None
    shown = np.sort(np.argsort(-matrix.sum(1), kind="stable")[:_MOST_CLASSES])
    totals = np.maximum(1, matrix.sum(1))
    rows = [
        (
            names[i],
            int(matrix[i].sum()),
            [(int(matrix[i, j]), matrix[i, j] / totals[i]) for j in shown],
        )
        for i in shown
    ]
    return Confusion([names[i] for i in shown], rows, len(names) - len(shown))


def types(run: Run) -> Table | None:
    """How well each type of entity is found; None where that is not known or damaged."""
    found = run.results.get("types")
    if not isinstance(found, dict):
        return None
    keys = ("precision", "recall", "f1", "examples")
    known: dict[str, list[float]] = {}
    for name, values in found.items():
        cells = [values.get(key, -1) if isinstance(values, dict) else -1 for key in keys]
        if all(type(cell) in (int, float) and 0 <= cell < 1e15 for cell in cells):
            known[printable(cut(name))] = [float(cell) for cell in cells]
    frequent = sorted(known, key=lambda name: -known[name][-1])[:_MOST_CLASSES]
    head = ["type", "precision", "recall", "F1", "there are"]
    return Table(head, [[name, *map(number, known[name])] for name in frequent]) if known else None


def _values(run: Run) -> dict[str, Any]:
    return flatten(as_dict(run.config))


def _defaults(run: Run) -> dict[str, Any]:
    if isinstance(run.config, FinetuneConfig):
        return flatten(as_dict(FinetuneConfig("-", data=TaskDataConfig("-"))))
    return flatten(as_dict(RunConfig(run_dir="-", phases=(Phase(steps=1),))))


def config_table(runs: Sequence[Run]) -> Table:
    """The keys that are not at their defaults; those in which runs differ are marked."""
    values = [_values(run) for run in runs]
    defaults = [_defaults(run) for run in runs]
    keys = list(dict.fromkeys(key for one in values for key in one))
    rows: list[list[str]] = []
    marked: set[int] = set()
    for key in keys:
        cells = [one.get(key) for one in values]
        usual = [one.get(key) for one in defaults]
        if cells == usual or key == "phases":
            continue
        differs = any(cell != cells[0] for cell in cells)
        if differs and key not in _OWN:
            marked.add(len(rows))
        tail = [] if len(runs) > 1 else [_shown(usual[0])]
        rows.append([key, *map(_shown, cells), *tail])
    phases = [_phases(run) for run in runs]
    if len(set(phases)) > 1:
        marked.add(len(rows))
    rows.append(["phases", *phases, *([NONE] if len(runs) == 1 else [])])
    tail = [] if len(runs) > 1 else ["default"]
    names = [run.name for run in runs] if len(runs) > 1 else ["this run"]
    return Table(["key", *names, *tail], rows, frozenset(marked), words=True)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _phases(run: Run) -> str:
    parts = [f"{p.steps:,} steps of {p.batch_size:,} x {p.length}" for p in run.config.phases]
    return ", then ".join(parts) or NONE


def phase_ends(run: Run) -> dict[int, str]:
    """The steps at which a phase gives way to the next, and what that one is."""
    phases = run.config.phases
    ends = accumulate(phase.steps for phase in phases)
    return {end: f"length {after.length}" for end, after in zip(ends, phases[1:], strict=False)}


def config_yaml(run: Run) -> str:
    """All keys."""
    return yaml.safe_dump(as_dict(run.config), sort_keys=False, allow_unicode=True)


def checkpoints(run: Run) -> Table | None:
    """What can be restored."""
    losses = {int(line["step"]): line.get("eval_loss") for line in run.measured}
    folder = absolute(run.path) / FOLDER
    rows: list[list[str]] = []
    for step in run.checkpoints:
        found = size(folder / str(step))
        held = NONE if found is None else f"{found / 1e6:,.1f} MB"
        rows.append([f"{step:,}", number(losses.get(step)), held])
    rows += [[name, NONE, NONE] for name in run.damaged]
    return Table(["checkpoint", "held-out loss", "size"], rows) if rows else None
