"""``bert-jax tpu COMMAND``, also ``python -m tpu COMMAND``: Cloud TPU slices."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from bert_jax.runtime.entry_point import run
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.help import example
from pipelines.option_errors import nearest

COMMANDS = {
    "types": "list the slices with chips, hosts, memory and prices",
    "preflight": "estimate memory, time and cost of a run on a slice; needs no TPU",
    "submit": "request a slice that trains; --dry-run prints the request",
    "watch": "request a new slice after a preemption, until the run is complete",
    "status": "show the state of the slice and of each host",
    "logs": "print the logs of the hosts",
    "ssh": "open a shell or run a command on a host",
    "stop": "save, stop and delete the slice",
    "delete": "delete the slice at once",
    "gc": "delete our failed and suspended slices, which count against the quota",
    "local": "rehearse a submission on this computer with emulated hosts",
    "selftest": "test the real cloud with the smallest slice; costs a few cents",
}
_MODULES = {
    "preflight": "preflight.preflight",
    "local": "rehearsal.local",
    "selftest": "rehearsal.selftest",
}


def main(argv: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadArgumentsError: The command is unknown.
        BadInputError: The extra ``cloud`` is not installed.
    """
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
        usage = "usage: bert-jax tpu COMMAND [options]     bert-jax tpu COMMAND --help"
        print(f"{usage}\n\n{rows}\n\n{example('tpu')}")  # noqa: T201
        return
    if argv[0] not in COMMANDS:
        raise BadArgumentsError(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}")
    module = _MODULES.get(argv[0], f"launch.{argv[0]}")
    try:
        command = importlib.import_module(f"tpu.{module}").main
    except ImportError as error:  # also of a name in google.cloud, a folder of many packages
        raise BadInputError(
            f"tpu {argv[0]} needs {error.name}; install it with: pip install 'bert-jax[cloud]'"
        ) from None
    command(argv[1:])


if __name__ == "__main__":
    run(main, sys.argv[1:])
