"""The ``bert-jax`` console script: find a command and run it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from bert_jax import __version__
from bert_jax.runtime.entry_point import Main, run
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.help import COMMANDS, commands, example


def usage() -> str:
    """Return the list of commands."""
    return (
        f"bert-jax {__version__}: pre-train and use BERT in JAX\n\n"
        f"usage: bert-jax COMMAND [options]     bert-jax COMMAND --help\n\n{commands()}\n\n"
        "Every command accepts --debug, which prints tracebacks. --version prints the version."
        f"\n\n{example('pretrain')}"
    )


def main() -> None:
    """Run the command that `sys.argv` names."""
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help", "help"):
        run(lambda _: print(usage(), flush=True))  # noqa: T201
    elif argv[0] == "--version":
        run(lambda _: print(__version__, flush=True))  # noqa: T201
    else:
        run(lambda rest: command(argv[0])(rest), argv[1:])


def command(name: str) -> Main:
    """Return the function that runs the command.

    Raises:
        BadArgumentsError: The command is unknown.
    """
    return module_of(name).main


def module_of(name: str) -> ModuleType:
    """Import the module of a command.

    Raises:
        BadArgumentsError: The command is unknown.
    """
    if name not in COMMANDS:
        from pipelines.option_errors import nearest

        raise BadArgumentsError(f"unknown command {name!r}{nearest(name, COMMANDS)}")
    module = "tpu.__main__" if name == "tpu" else f"pipelines.commands.{name.replace('-', '_')}"
    return importlib.import_module(module)


if __name__ == "__main__":
    main()
