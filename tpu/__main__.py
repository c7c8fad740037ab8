"""``python -m tpu COMMAND``: Cloud TPU slices."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from bert_jax.runtime.entry_point import run
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.help import example
from pipelines.settings import nearest

COMMANDS = {
    "types": "chips, hosts, memory and prices of all slices, or of one",
    "preflight": "does a run fit on a slice, and how long will it take; needs no TPU",
    "submit": "ask for a slice that trains; --dry-run shows the request",
    "watch": "keep a slice there until the run is done, through preemptions",
    "status": "what the slice and each of its hosts are doing",
    "logs": "what the hosts said",
    "ssh": "a shell or a command on a host",
    "stop": "save, end and delete the slice",
    "delete": "delete the slice at once",
    "gc": "delete our slices that are dead and count against the quota",
    "local": "rehearse a submission on this computer, with emulated machines",
    "selftest": "try the real cloud with the smallest slice; costs some cents",
}
_FOLDERS = {"preflight": "preflight.preflight", "local": "rehearsal.local"}


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        BadArgumentsError: There is none of that name.
        BadInputError: It needs the extra ``cloud``.
    """
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
        usage = "usage: bert-jax tpu COMMAND [options]     bert-jax tpu COMMAND --help"
        print(f"{usage}\n\n{rows}\n\n{example('tpu')}")  # noqa: T201
        return
    if argv[0] not in COMMANDS:
        raise BadArgumentsError(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}")
    module = _FOLDERS.get(argv[0], f"launch.{argv[0]}")
    try:
        command = importlib.import_module(f"tpu.{module}").main
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"tpu {argv[0]} needs {error.name}; install it with: pip install 'bert-jax[cloud]'"
        ) from None
    command(argv[1:])


if __name__ == "__main__":
    run(main, sys.argv[1:])
