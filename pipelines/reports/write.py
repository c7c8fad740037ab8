"""Write the report of one or several runs as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import absolute, check_kind, failures_explained, is_remote
from pipelines.folders import RUN_CONFIG
from pipelines.reports.page import MARK, page
from pipelines.reports.run import Run, open_run

_MARK_WITHIN = 1024  # bytes; the mark of a report is at its beginning


def write(paths: Sequence[Path], output: Path, store: str | None = None) -> list[Run]:
    """Write the report of the runs in `paths`; replace an older report only when complete.

    Returns:
        The runs.

    Raises:
        BadArgumentsError: The runs are of different kinds, or named twice.
        BadInputError: A path is not a run, or `output` is a file other than a report.
        UserError: A bucket cannot be reached, or the disk is full.
    """
    _check_replaceable(output)
    runs = [open_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    kinds = list(dict.fromkeys(run.kind for run in runs))
    if len(kinds) > 1:
        raise BadArgumentsError(
            f"{' and '.join(kinds)} cannot be compared, because their metrics differ; write a"
            " report of each kind"
        )
    content = page(runs, store, output).encode("utf-8", "replace")
    with failures_explained(str(output)):
        if is_remote(output):  # an object of a bucket is written as a whole
            output.write_bytes(content)
            return runs
    draft = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    return runs


def run_folders(path: Path) -> list[Path]:
    """Return the run in `path`, or the runs of ``finetune --seeds`` in it."""
    with failures_explained(str(path)):
        if not path.is_dir() or (path / RUN_CONFIG).exists():
            return [path]
        numbers = {
            int(number): folder
            for folder in path.iterdir()
            if folder.name.startswith("seed-")
            if (number := folder.name.removeprefix("seed-")).isdecimal()
        }
    return [numbers[number] for number in sorted(numbers)] or [path]


def _names(paths: Sequence[Path]) -> list[str]:
    """Name the runs by their folders, with as many parent folders as make the names distinct."""
    parts = [str(absolute(path)).rstrip("/").split("/") for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(folders[-depth:]) for folders in parts]
        if len(set(names)) == len(names):
            return names
    raise BadArgumentsError("a run is named twice; name each run once")


def _check_replaceable(output: Path) -> None:
    check_kind(output)
    with failures_explained(str(output)):
        if not output.is_file():
            return
        with output.open("rb") as file:
            if MARK.encode() in file.read(_MARK_WITHIN):
                return
    raise BadInputError(
        f"{output} exists and is not a report; choose another --output, or remove it"
    )
