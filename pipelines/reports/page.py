"""The page of a report: one HTML file that loads nothing and runs no script."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

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
from pipelines.reports.history import Cost
from pipelines.reports.report_tables import Confusion, Table
from pipelines.reports.run import Run, explained
from pipelines.reports.samples import Sample
from pipelines.tasks.config import FinetuneConfig

# The first lines of every report contain it, which distinguishes reports from other files.
MARK = '<meta name="generator" content="bert-jax report'


@dataclass
class Section:
    """The parts of a page about a single run.

    Attributes:
        run: The run.
        missing: Text in place of a missing part, by "data" and "samples".
    """

    run: Run
    facts: list[tuple[str, str]]
    events: Table | None
    cost: Cost | None
    checkpoints: Table | None
    results: Table | None
    confusion: Confusion | None
    types: Table | None
    records: Table | None
    yaml: str
    traces: Table | None
    traces_link: str
    traces_command: str
    card: str = ""
    data: Table | None = None
    labels: Table | None = None
    histograms: list[tuple[str, Markup]] = field(default_factory=list)
    samples: Sequence[Sample] = ()
    sampled_at: int = 0
    missing: dict[str, str] = field(default_factory=dict)


def page(runs: Sequence[Run], store: str | None, output: Path) -> str:
    """Return the HTML of a report.

    Args:
        runs: The runs.
        store: Where the store is now; None for the path in each config.
        output: Path of the page, from which links lead to traces.
    """
    numbers = count(1)
    figures = [(chart, draw(chart, next(numbers))) for chart in charts(runs)]
    sections = [_section(run, output) for run in runs]
    for section in sections:
        if isinstance(section.run.config, RunConfig):
            _fill(section, section.run.config, store, numbers)
        else:
            _fill_finetuned(section, section.run.config, numbers)
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
        perplexities=report_tables.perplexities(runs),
        config=report_tables.config_table(runs),
    )


def _section(run: Run, output: Path) -> Section:
    return Section(
        run=run,
        facts=report_tables.facts(run),
        events=history.events(run),
        cost=history.cost(run),
        checkpoints=report_tables.checkpoints(run),
        results=report_tables.results(run),
        confusion=report_tables.confusion(run),
        types=report_tables.types(run),
        records=samples.records(run),
        yaml=report_tables.config_yaml(run),
        traces=traces.table(run),
        traces_link=traces.link(run, output),
        traces_command=traces.command(run),
    )


def _fill(section: Section, config: RunConfig, store_path: str | None, numbers: count[int]) -> None:
    """Add the parts that need the store and a checkpoint, or why they are missing."""
    run = section.run
    store: Store | None = None
    try:
        store = data.open_store(run, config, store_path)
        phases = data.draw(config, store)
        section.data = data.table(phases)
        section.histograms = [data.histogram(drawn, next(numbers)) for drawn in phases]
    except UserError as error:
        section.missing["data"] = explained(error)
    section.card = data.card(run, store)
    if store is None or not run.checkpoints:
        reason = "the store is missing" if store is None else "there is no checkpoint yet"
        section.missing["samples"] = f"Not shown: {reason}."
        return
    say(f"{run.path}: predicting masked tokens")
    try:
        section.samples, section.sampled_at = samples.predictions(run, config, store)
    except UserError as error:
        section.missing["samples"] = explained(error)


def _fill_finetuned(section: Section, config: FinetuneConfig, numbers: count[int]) -> None:
    """Add the parts from the data file of a fine-tuning."""
    length, sets = task_data.read(section.run)
    if sets:
        section.data = task_data.table(config, length, sets)
        section.labels = task_data.labels(config, sets)
        section.histograms = [task_data.histogram(examples, next(numbers)) for examples in sets]
