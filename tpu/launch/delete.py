"""``bert-jax tpu delete RUN``: delete the slice at once."""

from __future__ import annotations

from collections.abc import Sequence

from bert_jax.runtime import status_files
from bert_jax.runtime.console import say
from pipelines.settings import command_parser, parse
from tpu.launch.watch import slice_of, watcher_of


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu delete",
        "Delete the slice of a run at once. Steps since the last checkpoint are lost (stop saves"
        " first). The run folder is kept.",
    )
    parser.add_argument("run", help="folder of the run")
    options = parse(parser, argv)
    watcher = watcher_of(options.run)
    launch = watcher.launch
    status_files.request_stop(watcher.run)  # otherwise a watcher would create it again
    resource = slice_of(launch, watcher.provider)
    if resource is None:
        say(f"{launch.name} does not exist in {', '.join(launch.tpu.zones)}")
    else:
        watcher.provider.delete(resource.zone, resource.name)
        say(f"deleting {resource.name} in {resource.zone}")
