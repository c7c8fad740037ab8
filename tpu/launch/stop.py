"""``python -m tpu stop RUN``: save, end, and delete the slice."""

from __future__ import annotations

from collections.abc import Sequence

from bert_jax.runtime import status_files
from pipelines.settings import command_parser, parse
from tpu.launch.watch import watch, watcher_of

_PAUSE = 3.0  # seconds between looks: somebody waits


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "tpu stop",
        "Asks the hosts of a run to save and end, and deletes the slice when they have. To submit"
        " the run again goes on with it.",
    )
    parser.add_argument("run", help="folder of the run")
    options = parse(parser, argv)
    watcher = watcher_of(options.run)
    status_files.ask_to_stop(watcher.run)
    watch(watcher, _PAUSE)
