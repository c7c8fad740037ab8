"""What a fine-tuning was fed, as the run wrote it down; see `pipelines.tasks.reporting`."""

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
from pipelines.tasks.reporting import DATA, cut

_SETS = {"train": "training", "validation": "validation"}
_MOST_LABELS = 20
_MOST_BINS = 100
# Of these tasks an example that is longer than a row becomes several; of others it is cut.
_DIVIDED = ("tagging", "qa", "summarization")
# What is counted as a label.
_LABELS = {"multiple-choice": "right choice", "qa": "the passage holds", "tagging": "type"}


@dataclass(frozen=True)
class Known:
    """What is known of a set of examples; see `shown.facts`.

    Attributes:
        name: Of the set.
        examples: How many.
        rows: That they make.
        median: Tokens of an example.
        most: Tokens that 95% of them have at most.
        longest: Tokens of the longest.
        longer: Share of those longer than a row.
        edges: Of a histogram of tokens.
        counts: Its bins.
        labels: How often each is the right answer.
        answers: How often any is; labels that are rare are not among them.
    """

    name: str
    examples: int
    rows: int
    median: float
    most: float
    longest: int
    longer: float
    edges: np.ndarray
    counts: np.ndarray
    labels: dict[str, int]
    answers: int


def known(run: Run) -> tuple[int, list[Known]]:
    """Tokens of a row at most, and what is known of the sets; none if the file is damaged."""
    try:
        found = json.loads(text(run.path / DATA))
        sets = [_known(_SETS[name], found[name]) for name in _SETS if name in found]
        return _whole(found["length"]), sets
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0, []


def _known(name: str, found: dict[str, dict[str, object]]) -> Known:
    tokens, labels = found["tokens"], found["labels"]
    one = Known(
        name=name,
        examples=_whole(found["examples"]),
        rows=_whole(found["rows"]),
        median=_real(tokens["median"]),
        most=_real(tokens["95%"]),
        longest=_whole(tokens["longest"]),
        longer=_real(tokens["longer"]),
        edges=_wholes(tokens["edges"]),
        counts=_wholes(tokens["counts"]),
        labels={printable(cut(name)): _whole(count) for name, count in labels.items()},
        answers=_whole(found["answers"]),
    )
    edges, counts = one.edges, one.counts
    if len(edges) != len(counts) + 1 or len(counts) > _MOST_BINS or (np.diff(edges) < 1).any():
        raise ValueError
    return one


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError
    return value


def _wholes(values: object) -> np.ndarray:
    if not isinstance(values, list) or not values:
        raise ValueError
    return np.array([_whole(value) for value in values])


def _real(value: object) -> float:
    if type(value) is not float or not 0 <= value < 1 << 53:  # NaN is not
        raise ValueError
    return value


def table(config: FinetuneConfig, length: int, sets: list[Known]) -> Table:
    """The numbers, a column per set."""
    what = "a text with a choice" if config.task == "multiple-choice" else "an example"
    then = "divided into rows" if config.task in _DIVIDED else "cut"
    rows = [
        ["examples", *(f"{one.examples:,}" for one in sets)],
        [f"rows of at most {length:,} tokens", *(f"{one.rows:,}" for one in sets)],
        [f"tokens of {what}, median", *(number(one.median) for one in sets)],
        ["… 95% have at most", *(f"{one.most:,.0f}" for one in sets)],
        ["… the longest has", *(f"{one.longest:,}" for one in sets)],
        [f"longer than a row, and so {then}", *(f"{one.longer:.1%}" for one in sets)],
    ]
    return Table(["of the examples", *(one.name for one in sets)], rows)


def labels(config: FinetuneConfig, sets: list[Known]) -> Table | None:
    """How often each answer is right, the most frequent first."""
    names = list(dict.fromkeys(name for one in sets for name in one.labels))
    if not names:
        return None
    shown = names[:_MOST_LABELS]
    rows = [[name, *(_share(one.labels.get(name, 0), one) for one in sets)] for name in shown]
    rest = [one.answers - sum(one.labels.get(name, 0) for name in shown) for one in sets]
    if any(rest):
        cells = (_share(count, one) for count, one in zip(rest, sets, strict=True))
        rows.append(["others, which are rarer", *cells])
    return Table([_LABELS.get(config.task, "label"), *(one.name for one in sets)], rows)


def _share(count: int, one: Known) -> str:
    return f"{count:,} ({count / one.answers:.1%})" if count > 0 < one.answers else NONE


def histogram(one: Known, figure: int) -> tuple[str, Markup]:
    """Title and figure of the tokens of the examples."""
    title = f"Tokens of an example, {one.name}"
    if one.longest > one.edges[-1]:
        title += ", the last bar with all that are longer"
    return title, bars(one.counts, one.edges, figure, title)
