"""What `--profile` recorded of a run, and how to look at it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import quote

from bert_jax.runtime.paths import absolute, failures_explained, is_remote
from bert_jax.training import profiler
from pipelines.reports.report_tables import NONE, Table
from pipelines.reports.run import Run

_MOST = 40


def table(run: Run) -> Table | None:
    """The traces, by the names that xprof lists them under; None where there are none.

    Raises:
        UserError: The bucket cannot be reached.
    """
    folder = run.path / profiler.FOLDER / profiler.PLUGIN
    with failures_explained(str(folder)):
        names = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
    rows = [[name, _updates(name)] for name in names[:_MOST]]
    return Table(["trace", "updates"], rows, words=True) if rows else None


def _updates(name: str) -> str:
    found = re.fullmatch(profiler.NAME.format(r"(\d+)", r"(\d+)"), name)
    return f"{int(found[1]):,} to {int(found[2]):,}" if found else NONE


def link(run: Run, output: Path) -> str:
    """Where the traces lie, seen from the page in `output`; empty if one of them is in a bucket."""
    folder = run.path / profiler.FOLDER
    if is_remote(folder) or is_remote(output):
        return ""
    try:
        relative = folder.resolve().relative_to(output.resolve().parent)
    except ValueError:
        return folder.resolve().as_uri()
    return quote(f"{relative}/")


def command(run: Run) -> str:
    """What opens all of them, for a shell; xprof reads buckets too."""
    return f"xprof --logdir {shlex.quote(str(absolute(run.path) / profiler.FOLDER))}"
