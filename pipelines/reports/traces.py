"""Traces that `--profile` recorded, and the command that opens them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import quote

from bert_jax.runtime.paths import absolute, failures_explained, is_remote
from bert_jax.training import profiler
from pipelines.reports.report_tables import NONE, Table
from pipelines.reports.run import Run

_MAX_TRACES = 40


def table(run: Run) -> Table | None:
    """Return the traces by their names in xprof; None if there are none.

    Raises:
        UserError: The bucket cannot be reached.
    """
    folder = run.path / profiler.FOLDER / profiler.PLUGIN
    with failures_explained(str(folder)):
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    rows = [[name, _updates(name)] for name in names[:_MAX_TRACES]]
    return Table(["trace", "updates"], rows, words=True) if rows else None


def _updates(name: str) -> str:
    match = re.fullmatch(profiler.NAME.format(r"(\d+)", r"(\d+)"), name)
    return f"{int(match[1]):,} to {int(match[2]):,}" if match else NONE


def link(run: Run, output: Path) -> str:
    """Return the link from the page in `output` to the traces; empty if either is in a bucket."""
    folder = run.path / profiler.FOLDER
    if is_remote(folder) or is_remote(output):
        return ""
    try:
        relative = folder.resolve().relative_to(output.resolve().parent)
    except ValueError:
        return folder.resolve().as_uri()
    return quote(f"{relative}/")


def command(run: Run) -> str:
    """Return the shell command that opens the traces, also in a bucket."""
    return f"xprof --logdir {shlex.quote(str(absolute(run.path) / profiler.FOLDER))}"
