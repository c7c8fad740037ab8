"""``bert-jax report``: one self-contained HTML page of a run, or of several side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import jax

from bert_jax.runtime import distributed
from bert_jax.runtime.console import summary
from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.runtime.paths import at, failures_explained, is_remote
from pipelines.settings import command_parser, parse

_NAME = "report.html"


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "report", "Write one HTML page of a run, or of several: curves, data, samples, config."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a pre-training or fine-tuning run"
    )
    parser.add_argument(
        "--output", metavar="FILE", help=f"default: RUN/{_NAME}; ./{_NAME} for several runs"
    )
    parser.add_argument("--store", help="store, if it was moved since the training")
    options = parse(parser, argv)
    started = time.monotonic()
    # Slow to import, because of Matplotlib; a wrong option fails before.
    from pipelines.reports.figures import MAX_RUNS
    from pipelines.reports.write import run_folders, write

    paths = [path for run in options.runs for path in run_folders(at(run))]
    if len(paths) > MAX_RUNS:
        raise BadArgumentsError(f"{len(paths)} runs; a report shows at most {MAX_RUNS}")
    output = _output(options.output, paths)
    # The run itself may be using the accelerator.
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


def _output(name: str | None, paths: Sequence[Path]) -> Path:
    if name is None:
        return paths[0] / _NAME if len(paths) == 1 else Path(_NAME)
    output = at(name)
    with failures_explained(name):
        if not name or output.is_dir():
            raise BadArgumentsError(f"--output {name!r} is a folder; name a file in it")
        if not is_remote(output) and not output.parent.is_dir():
            raise BadArgumentsError(f"--output {name}: its folder does not exist; create it first")
    return output
