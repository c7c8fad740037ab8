"""The page of a report: one HTML file that loads nothing and runs no script."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bert_jax import __version__
from bert_jax.config.run import RunConfig
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import UserError
from pipelines.data.store.token_store import Store
from pipelines.reports import data, history, report_tables, samples, task_data, traces
from pipelines.reports.curves import charts
from pipelines.reports.figures import SIGNS, draw
from pipelines.reports.run import Run

# The first lines of every report contain it, which distinguishes reports from other files.
MARK = '<meta name="generator" content="bert-jax report'


def page(runs: Sequence[Run], store: str | None, output: Path) -> str:
    """Return the HTML of a report.

    Args:
        runs: The runs.
        store: Where the store is now; None for the path in each config.
        output: Path of the page, from which links lead to traces.
    """
    numbers = count(1)
    figures = [(chart, draw(chart, next(numbers))) for chart in charts(runs)]
    sections = [_section(run, output, store, numbers) for run in runs]
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        mark=Markup(MARK),  # noqa: S704
        version=__version__,
        style=Markup((folder / "page.css").read_text("utf-8")),  # noqa: S704
        made=report_tables.moment(time.time()),
        title=" · ".join(run.name for run in runs),
        runs=runs,
        signs=SIGNS,
        sections=sections,
        overview=report_tables.overview(runs),
        figures=figures,
        marks={kind for chart, _ in figures for kind in chart.marks},
        evaluated=any(curve.kind == "held-out" for chart, _ in figures for curve in chart.curves),
        evaluation=runs[0].evaluation,
        evaluations=report_tables.evaluations(runs),
        held_out_note=report_tables.held_out_note(runs),
        perplexities=report_tables.perplexities(runs),
        config=report_tables.config_table(runs),
    )


def _section(run: Run, output: Path, store: str | None, numbers: count[int]) -> dict[str, Any]:
    """Return the parts of a page about a single run."""
    section: dict[str, Any] = {
        "run": run,
        "facts": report_tables.facts(run),
        "events": history.events(run),
        "cost": history.cost(run),
        "checkpoints": report_tables.checkpoints(run),
        "results": report_tables.results(run),
        "confusion": report_tables.confusion(run),
        "types": report_tables.types(run),
        "records": samples.records(run),
        "yaml": report_tables.config_yaml(run),
        "traces": traces.table(run),
        "traces_link": traces.link(run, output),
        "traces_command": traces.command(run),
        "card": "",
        "data": None,
        "labels": None,
        "histograms": [],
        "samples": (),
        "missing": {},  # part -> text in its place
    }
    if isinstance(run.config, RunConfig):
        return section | _pretraining(run, run.config, store, numbers)
    length, sets = task_data.read(run)
    if not sets:
        return section
    return section | {
        "data": task_data.table(run.config, length, sets),
        "labels": task_data.labels(run.config, sets),
        "histograms": [task_data.histogram(examples, next(numbers)) for examples in sets],
    }


def _pretraining(
    run: Run, config: RunConfig, store_path: str | None, numbers: count[int]
) -> dict[str, Any]:
    """Return the parts that need the store and a checkpoint, or why they are missing."""
    parts: dict[str, Any] = {}
    missing: dict[str, str] = {}
    store: Store | None = None
    try:
        store = data.open_store(run, config, store_path)
        phases = data.draw(config, store)
        parts["data"] = data.table(phases)
        parts["histograms"] = [data.histogram(drawn, next(numbers)) for drawn in phases]
    except UserError as error:
        missing["data"] = f"Not shown: {error}."
    parts |= {"card": data.card(run, store), "missing": missing}
    if store is None or not run.checkpoints:
        reason = "the store is missing" if store is None else "there is no checkpoint yet"
        missing["samples"] = f"Not shown: {reason}."
        return parts
    say(f"{run.path}: predicting masked tokens")
    try:
        parts["samples"], parts["sampled_at"] = samples.predictions(run, config, store)
    except UserError as error:
        missing["samples"] = f"Not shown: {error}."
    return parts
