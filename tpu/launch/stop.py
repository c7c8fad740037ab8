"""``bert-jax tpu stop RUN``: save, stop and delete the slice."""

from __future__ import annotations

from collections.abc import Sequence

from bert_jax.runtime import status_files
from pipelines.settings import command_parser, parse
from tpu.launch.watch import watch, watcher_of

_PAUSE = 3.0  # seconds between observations; the user waits


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu stop",
        "Save and stop the run on all hosts, then delete the slice. Submit the run again to resume"
        " it.",
    )
    parser.add_argument("run", help="folder of the run")
    options = parse(parser, argv)
    watcher = watcher_of(options.run)
    status_files.request_stop(watcher.run)
    watch(watcher, _PAUSE)
