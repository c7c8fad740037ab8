"""``python -m tpu stop RUN``: save, end, and delete the slice."""

from __future__ import annotations

from collections.abc import Sequence

from bert_jax.paths import at
from pipelines.settings import command_parser, parse
from tpu import markers
from tpu.request import read_launch
from tpu.watch import Watcher, provider_of, watch

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
    run = at(options.run)
    launch = read_launch(run)
    provider = provider_of(launch)
    markers.ask_to_stop(run)
    watch(Watcher(launch, provider), _PAUSE)
