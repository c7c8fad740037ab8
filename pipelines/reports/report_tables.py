"""Tables of a report: state of the runs, evaluations, configs and checkpoints."""

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
from bert_jax.training.metadata import FOLDER
from pipelines.data.batches import held_out
from pipelines.folders import INITIAL_VALUES
from pipelines.reports.run import Run, size
from pipelines.tasks.config import FinetuneConfig, TaskDataConfig
from pipelines.tasks.registry import TASKS
from pipelines.tasks.reporting import cut

_MAX_EVALUATIONS = 40
_MAX_CLASSES = 20
NONE = "-"
_MORE_SCORES = ("average_precision", "threshold")  # of a label, if the task has them
# Perplexity of masked tokens in held-out text.
PUBLISHED = (("BERT-Base", 3.99), ("BERT-Large", 3.23))


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        head: Names of the columns.
        rows: Cells.
        marked: Indices of the highlighted rows.
        words: True if the cells are words instead of numbers.
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
        rows: Per true class: its name, its number of examples, and per predicted class the count
            and the fraction of the row.
        left_out: Number of classes that are not shown.
    """

    classes: Sequence[str]
    rows: Sequence[tuple[str, int, Sequence[tuple[int, float]]]]
    left_out: int


def moment(seconds: float) -> str:
    """Format a time in seconds since 1970."""
    if not 0 < seconds < 4e9:
        return NONE
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float) -> str:
    """Format a duration in seconds."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def number(value: float | None) -> str:
    """Format a measured value with a sensible number of digits."""
    if value is None:
        return NONE
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 0.001 <= abs(value) < 1e6:
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"
    return f"{value:.4g}"


def facts(run: Run) -> list[tuple[str, str]]:
    """Return the names and values at the top of the page."""
    config, (state, reason) = run.config, run.state
    last = run.trained[-1] if run.trained else {}
    network = config.model
    speed, mfu = _median(run, "tokens_per_second"), _median(run, "mfu")
    rows = [
        ("state", f"{state}: {reason}" if reason else state),
        ("step", f"{run.step:,} of {config.steps:,}"),
        ("model", f"{run.kind}, {network.layers} layers of {network.hidden_size}"),
        ("initial values", _initial_values(run)),
        ("training time", span(last["seconds"]) if "seconds" in last else NONE),
        ("throughput", f"{speed:,.0f} tokens/s (median)" if speed is not None else NONE),
        ("tokens trained on", f"{int(last['tokens']):,}" if "tokens" in last else NONE),
    ]
    if mfu is not None:
        rows.append(("of the devices' peak", f"{mfu:.1%} (median)"))
    if run.sessions:
        rows += [
            ("first start", moment(run.sessions[0].started)),
            ("last log line", moment(run.written)),
        ]
    return rows


def _initial_values(run: Run) -> str:
    if run.config.init:
        return f"the weights of {run.config.init}"
    if run.config.model.initialization == "normal":
        return "random"
    digest = run.meta.data.get(INITIAL_VALUES, "") if run.meta else ""
    return f"statistics of the store ({digest[:12] or 'no checkpoint yet'})"


def _median(run: Run, key: str) -> float | None:
    values = [line[key] for line in run.trained if key in line]
    return float(np.median(values)) if values else None


def overview(runs: Sequence[Run]) -> Table:
    """Return `facts` with a column per run, and the number of restarts, stops and skips."""
    columns = [dict(facts(run)) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name, NONE) for column in columns)] for name in names]
    for name, steps in (
        ("restarts", [run.restarts for run in runs]),
        ("stopped on request, or preempted", [run.preemptions for run in runs]),
        ("batches skipped", [run.skipped for run in runs]),
    ):
        if any(steps):
            rows.append([name, *(f"{len(of_run):,}" for of_run in steps)])
    return Table(["run", *(run.name for run in runs)], rows)


def evaluations(runs: Sequence[Run]) -> Table | None:
    """Return the evaluations of one run by step, or the last ones of several runs."""
    names = list(dict.fromkeys(key for run in runs for line in run.evaluated for key in line))
    names = [name for name in names if name.startswith("eval_")]
    if not names:
        return None
    if len(runs) > 1:
        lasts = [run.evaluated[-1] if run.evaluated else {} for run in runs]
        keys = ["step", *names]
        rows = [[_plain(key), *(number(last.get(key)) for last in lasts)] for key in keys]
        return Table(["last evaluation", *(run.name for run in runs)], rows)
    lines = runs[0].evaluated
    if len(lines) > _MAX_EVALUATIONS:
        kept = np.unique(np.linspace(0, len(lines) - 1, _MAX_EVALUATIONS).round().astype(int))
        lines = [lines[index] for index in kept]
    best = min(lines, key=lambda line: line.get("eval_loss", 0.0))
    marked = frozenset({lines.index(best)} if "eval_loss" in best else ())
    rows = [[number(line["step"]), *(number(line.get(key)) for key in names)] for line in lines]
    return Table(["step", *map(_plain, names)], rows, marked)


def held_out_note(runs: Sequence[Run]) -> str:
    """Describe the held-out examples of pre-training; empty for fine-tuning."""
    lines = [line for run in runs if isinstance(run.config, RunConfig) for line in run.evaluated]
    lengths = [int(line["eval_length"]) for line in lines if "eval_length" in line]
    notes = [f"Measured on {held_out.described(lengths)}."] if lengths else []
    if len(lengths) < len(lines):
        notes.append(
            "Evaluations without a length are of an older version, which used the data settings of"
            " the run; compare them only with those of runs with the same settings."
        )
    return " ".join(notes)


def _plain(key: str) -> str:
    return key.removeprefix("eval_").replace("_", " ")


def perplexities(runs: Sequence[Run]) -> Table | None:
    """Return last and best held-out perplexity per run and length, and the published ones."""
    rows = []
    for run in runs:
        phases, by_length = run.config.phases, dict[int, list[float]]()
        for line in run.evaluated if isinstance(run.config, RunConfig) else ():
            if "eval_perplexity" in line:
                phase = phases[min(number_of(int(line["step"]), phases), len(phases)) - 1]
                # Lines of older versions have no length.
                length = int(line.get("eval_length", phase.length))
                by_length.setdefault(length, []).append(line["eval_perplexity"])
        for length, values in by_length.items():
            rows.append([f"{run.name}, length {length}", number(values[-1]), number(min(values))])
    if not rows:
        return None
    published = [[f"{name}, as published", f"{value:.2f}", NONE] for name, value in PUBLISHED]
    return Table(["held-out perplexity of masked tokens", "last", "best"], rows + published)


def results(run: Run) -> Table | None:
    """Return the numbers in eval_results.json."""
    rows = [
        [key.replace("_", " "), number(float(value))]
        for key, value in run.results.items()
        if type(value) in (int, float) and abs(value) < 1e300
    ]
    return Table(["last evaluation", run.name], rows) if rows else None


def confusion(run: Run) -> Confusion | None:
    """Return the confusion matrix of a classification; None if it is missing or damaged."""
    record = run.results.get("confusion")
    if not isinstance(record, dict):
        return None
    classes, counts = record.get("classes"), record.get("true_by_predicted")
    if not isinstance(classes, list) or not isinstance(counts, list):
        return None
    names = [str(name) for name in classes]
    try:
        matrix = np.array(counts, np.int64)
    except (ValueError, TypeError, OverflowError):
        return None
    if matrix.shape != (len(names), len(names)) or not names or (matrix < 0).any():
        return None
    largest = np.sort(np.argsort(-matrix.sum(1), kind="stable")[:_MAX_CLASSES])
    totals = np.maximum(1, matrix.sum(1))
    rows = [
        (
            names[i],
            int(matrix[i].sum()),
            [(int(matrix[i, j]), matrix[i, j] / totals[i]) for j in largest],
        )
        for i in largest
    ]
    return Confusion([names[i] for i in largest], rows, len(names) - len(largest))


def types(run: Run) -> Table | None:
    """Return the scores of each label or type of entity; None if they are missing or damaged."""
    types = run.results.get("types")
    if not isinstance(types, dict):
        return None
    rows_of = [of for of in types.values() if isinstance(of, dict)]
    more = [key for key in _MORE_SCORES if any(key in of for of in rows_of)]
    keys = (*more, "precision", "recall", "f1", "examples")
    scores: dict[str, list[float]] = {}
    for name, values in types.items():
        cells = [values.get(key, -1) if isinstance(values, dict) else -1 for key in keys]
        if all(type(cell) in (int, float) and 0 <= cell < 1e15 for cell in cells):
            scores[printable(cut(name))] = [float(cell) for cell in cells]
    frequent = sorted(scores, key=lambda name: -scores[name][-1])[:_MAX_CLASSES]
    rows = [[name, *map(number, scores[name])] for name in frequent]
    names = [key.replace("_", " ").replace("f1", "F1") for key in keys]
    task = run.config.task if isinstance(run.config, FinetuneConfig) else ""
    title = TASKS[task].label_title if task in TASKS else "type"
    return Table([title, *names], rows) if rows else None


def _defaults(run: Run) -> dict[str, Any]:
    if isinstance(run.config, FinetuneConfig):
        return flatten(as_dict(FinetuneConfig("-", data=TaskDataConfig("-"))))
    return flatten(as_dict(RunConfig(run_dir="-", phases=(Phase(steps=1),))))


def config_table(runs: Sequence[Run]) -> Table:
    """Return the keys that differ from their defaults; those in which runs differ are marked."""
    values = [flatten(as_dict(run.config)) | {"phases": _phases(run)} for run in runs]
    defaults = [_defaults(run) | {"phases": None} for run in runs]
    keys = list(dict.fromkeys(key for of_run in values for key in of_run if key != "phases"))
    rows: list[list[str]] = []
    marked: set[int] = set()
    for key in [*keys, "phases"]:
        cells = [of_run.get(key) for of_run in values]
        default = [of_run.get(key) for of_run in defaults]
        if cells == default:
            continue
        if key != "run_dir" and any(cell != cells[0] for cell in cells):
            marked.add(len(rows))
        rows.append([key, *map(_formatted, cells if len(runs) > 1 else [*cells, *default])])
    columns = [run.name for run in runs] if len(runs) > 1 else ["this run", "default"]
    return Table(["key", *columns], rows, frozenset(marked), words=True)


def _formatted(value: Any) -> str:
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
    """Return the last step of each phase but the last, with a label for the next phase."""
    phases = run.config.phases
    ends = accumulate(phase.steps for phase in phases)
    return {end: f"length {after.length}" for end, after in zip(ends, phases[1:], strict=False)}


def config_yaml(run: Run) -> str:
    """Return the complete config."""
    return yaml.safe_dump(as_dict(run.config), sort_keys=False, allow_unicode=True)


def checkpoints(run: Run) -> Table | None:
    """Return the checkpoints, with damaged ones at the end."""
    losses = {int(line["step"]): line.get("eval_loss") for line in run.evaluated}
    folder = absolute(run.path) / FOLDER
    rows: list[list[str]] = []
    for step in run.checkpoints:
        count = size(folder / str(step))
        megabytes = NONE if count is None else f"{count / 1e6:,.1f} MB"
        rows.append([f"{step:,}", number(losses.get(step)), megabytes])
    rows += [[name, NONE, NONE] for name in run.damaged]
    return Table(["checkpoint", f"{run.evaluation} loss", "size"], rows) if rows else None
