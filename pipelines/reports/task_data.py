"""Data of a fine-tuning, from the file that the run wrote; see `pipelines.tasks.reporting`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from bert_jax.runtime.errors import printable
from pipelines.reports.figures import bars
from pipelines.reports.report_tables import NONE, Table, number
from pipelines.reports.run import Run, text
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS
from pipelines.tasks.reporting import DATA, cut
from pipelines.tasks.task import Task

_SETS = {"train": "training", "validation": "validation"}
_MAX_LABELS = 20
_MAX_BINS = 100


@dataclass(frozen=True)
class Examples:
    """Statistics of a set of examples; see `pipelines.tasks.reporting.facts`.

    Attributes:
        name: Name of the set.
        count: Number of examples.
        rows: Number of rows that they make.
        median: Median of the tokens per example.
        percentile: 95% of the examples have at most this many tokens.
        longest: Tokens of the longest example.
        longer: Fraction of the examples that are longer than a row.
        edges: Edges of a histogram of tokens.
        bins: Its counts.
        labels: Label -> number of examples; without rare labels.
        answers: Number of all labels.
    """

    name: str
    count: int
    rows: int
    median: float
    percentile: float
    longest: int
    longer: float
    edges: np.ndarray
    bins: np.ndarray
    labels: dict[str, int]
    answers: int


def read(run: Run) -> tuple[int, list[Examples]]:
    """Return the maximum tokens per row, and the sets of examples; none if the file is damaged."""
    try:
        record = json.loads(text(run.path / DATA))
        sets = [_examples(_SETS[name], record[name]) for name in _SETS if name in record]
        return _whole(record["length"]), sets
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0, []


def _examples(name: str, record: dict[str, dict[str, object]]) -> Examples:
    tokens, labels = record["tokens"], record["labels"]
    edges, bins = _wholes(tokens["edges"]), _wholes(tokens["counts"])
    if len(edges) != len(bins) + 1 or len(bins) > _MAX_BINS or (np.diff(edges) < 1).any():
        raise ValueError
    return Examples(
        name=name,
        count=_whole(record["examples"]),
        rows=_whole(record["rows"]),
        median=_real(tokens["median"]),
        percentile=_real(tokens["95%"]),
        longest=_whole(tokens["longest"]),
        longer=_real(tokens["longer"]),
        edges=edges,
        bins=bins,
        labels={printable(cut(label)): _whole(count) for label, count in labels.items()},
        answers=_whole(record["answers"]),
    )


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError
    return value


def _wholes(values: object) -> np.ndarray:
    if not isinstance(values, list) or not values:
        raise ValueError
    return np.array([_whole(value) for value in values])


def _real(value: object) -> float:
    if type(value) is not float or not 0 <= value < 1 << 53:  # false for NaN
        raise ValueError
    return value


def table(config: FinetuneConfig, length: int, sets: list[Examples]) -> Table:
    """Return the statistics, with a column per set."""
    task = TASKS.get(config.task, Task)
    then = "divided into rows" if task.splits_examples else "cut"
    rows = [
        ["examples", *(f"{examples.count:,}" for examples in sets)],
        [f"rows of at most {length:,} tokens", *(f"{examples.rows:,}" for examples in sets)],
        [f"tokens of {task.length_of}, median", *(number(examples.median) for examples in sets)],
        ["… 95% have at most", *(f"{examples.percentile:,.0f}" for examples in sets)],
        ["… the longest has", *(f"{examples.longest:,}" for examples in sets)],
        [f"longer than a row, and so {then}", *(f"{examples.longer:.1%}" for examples in sets)],
    ]
    return Table(["of the examples", *(examples.name for examples in sets)], rows)


def labels(config: FinetuneConfig, sets: list[Examples]) -> Table | None:
    """Return the frequency of each label, the most frequent first."""
    names = list(dict.fromkeys(name for examples in sets for name in examples.labels))
    if not names:
        return None
    listed = names[:_MAX_LABELS]
    rows = [[name, *(_frequency(of.labels.get(name, 0), of) for of in sets)] for name in listed]
    rest = [of.answers - sum(of.labels.get(name, 0) for name in listed) for of in sets]
    if any(rest):
        cells = (_frequency(count, of) for count, of in zip(rest, sets, strict=True))
        rows.append(["others, which are rarer", *cells])
    return Table([TASKS.get(config.task, Task).label_title, *(of.name for of in sets)], rows)


def _frequency(count: int, examples: Examples) -> str:
    answers = examples.answers
    return f"{count:,} ({count / answers:.1%})" if count > 0 < answers else NONE


def histogram(examples: Examples, figure: int) -> tuple[str, Markup]:
    """Return title and figure of the tokens per example."""
    title = f"Tokens of an example, {examples.name}"
    if examples.longest > examples.edges[-1]:
        title += ", the last bar with all that are longer"
    return title, bars(examples.bins, examples.edges, figure, title)
