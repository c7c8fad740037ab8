"""``python -m tpu delete RUN``: delete the slice at once."""

from __future__ import annotations

from collections.abc import Sequence

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from pipelines.settings import command_parser, parse
from tpu.launch.watch import slice_of, watcher_of


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "tpu delete",
        "Deletes the slice of a run without waiting for it to save: what was done since the last"
        " checkpoint is lost (stop saves first). The run folder is left as it is.",
    )
    parser.add_argument("run", help="folder of the run")
    options = parse(parser, argv)
    watcher = watcher_of(options.run)
    launch = watcher.launch
    status_files.ask_to_stop(watcher.run)  # or a watcher would create it again
    found = slice_of(launch, watcher.provider)
    if found is None:
        say(f"there is no {launch.name} in {', '.join(launch.tpu.zones)}")
    else:
        watcher.provider.delete(found.zone, found.name)
        say(f"{found.name} in {found.zone} is being deleted")
