"""``bert-jax report``: one self-contained HTML page of a run, or of several side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from bert_jax.runtime import distributed
from bert_jax.runtime.console import summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import absolute, at, check_kind, failures_explained, is_remote
from pipelines.folders import RUN_CONFIG
from pipelines.settings import command_parser, parse

if TYPE_CHECKING:
    from pipelines.reports.run import Run

_NAME = "report.html"
_BEGINNING = 1024  # bytes in which a report says that it is one


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "report", "Writes one HTML page of a run, or of several: curves, data, samples, config."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder, of pre-training or fine-tuning"
    )
    parser.add_argument(
        "--output", metavar="FILE", help=f"default: RUN/{_NAME}; of several runs ./{_NAME}"
    )
    parser.add_argument("--store", help="where the store is now, if not where the config says")
    options = parse(parser, argv)
    started = time.monotonic()
    # Matplotlib and the machinery of models, which a wrong option need not wait for.
    from pipelines.reports.figures import MOST_RUNS

    paths = [path for given in options.runs for path in _folders(at(given))]
    if len(paths) > MOST_RUNS:
        raise BadArgumentsError(f"{len(paths)} runs; a report shows at most {MOST_RUNS}")
    output = _output(options.output, paths)
    # The accelerator may be at work for the very run that is looked at.
    jax.config.update("jax_platforms", "cpu")
    distributed.enable_compilation_cache()
    runs = write(paths, output, options.store)
    usable = [str(run.path) for run in runs if run.checkpoints]
    states = (f"{run.name} ({run.state[0]}, step {run.step:,})" for run in runs)
    summary(
        f"{output}: open it in a browser",
        started,
        ("serve", usable[0]) if usable else (),
        of=", ".join(states),
    )


def write(paths: Sequence[Path], output: Path, store: str | None = None) -> list[Run]:
    """Writes the report of the runs in `paths`; an older one stays until the new one is whole.

    Returns:
        The runs.

    Raises:
        BadArgumentsError: They are trained for different things.
        BadInputError: One of them is no run, or `output` is something else than a report.
        UserError: A bucket cannot be reached, or the disk is full.
    """
    from pipelines.reports.page import page
    from pipelines.reports.run import open_run

    _check_replaceable(output)
    runs = [open_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    kinds = list(dict.fromkeys(run.kind for run in runs))
    if len(kinds) > 1:
        raise BadArgumentsError(
            f"{' and '.join(kinds)} cannot be compared: their numbers mean different things; make a"
            " report of each kind"
        )
    content = page(runs, store, output).encode("utf-8", "replace")
    with failures_explained(str(output)):
        if is_remote(output):  # an object appears as a whole
            output.write_bytes(content)
            return runs
    draft = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    return runs


def _folders(path: Path) -> list[Path]:
    """The run in `path`, or those that ``finetune --seeds`` made in it."""
    with failures_explained(str(path)):
        if not path.is_dir() or (path / RUN_CONFIG).exists():
            return [path]
        seeds = [one for one in path.iterdir() if one.name.startswith("seed-")]
    numbered = [one for one in seeds if one.name.removeprefix("seed-").isdecimal()]
    return sorted(numbered, key=lambda one: int(one.name.removeprefix("seed-"))) or [path]


def _names(paths: Sequence[Path]) -> list[str]:
    """What to call the runs: their folders' names, with those above where they are the same."""
    parts = [str(absolute(path)).rstrip("/").split("/") for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise BadArgumentsError("the same run is named twice")


def _output(given: str | None, paths: Sequence[Path]) -> Path:
    if given is None:
        return paths[0] / _NAME if len(paths) == 1 else Path(_NAME)
    output = at(given)
    with failures_explained(given):
        if not given or output.is_dir():
            raise BadArgumentsError(f"--output {given!r} is a folder; name a file in it")
        if not is_remote(output) and not output.parent.is_dir():
            raise BadArgumentsError(f"--output {given}: its folder does not exist")
    return output


def _check_replaceable(output: Path) -> None:
    from pipelines.reports.page import MARK

    check_kind(output)
    with failures_explained(str(output)):
        if not output.is_file():
            return
        with output.open("rb") as file:
            if MARK.encode() in file.read(_BEGINNING):
                return
    raise BadInputError(
        f"{output} is there and is no report; choose another --output, or remove it"
    )
