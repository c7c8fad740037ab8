"""``bert-jax completion SHELL``: a script that completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Literal

import shtab

from bert_jax.runtime.errors import UserError
from pipelines.commands import cli
from pipelines.settings import command_parser, parse, parser_of
from pipelines.tasks.registry import TASKS
from tpu.__main__ import COMMANDS as TPU_COMMANDS

# What an option or argument is called whose value is a file or folder.
_PATHS = frozenset({"CONFIG", "DIR", "FILE", "INIT", "MODEL", "OUT", "RUN", "RUN_DIR", "STORE"})


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "completion", "Prints a script for a shell, with which Tab completes commands and options."
    )
    parser.add_argument("shell", metavar="SHELL", type=Literal["bash", "zsh", "fish"])
    options = parse(parser, argv)
    print(shtab.complete(all_commands(), options.shell))  # noqa: T201


def all_commands() -> argparse.ArgumentParser:
    """A parser of everything that may be typed, to be looked at only."""
    root = argparse.ArgumentParser("bert-jax")
    root.add_argument("--version", action="store_true", help="tell the version")
    names = root.add_subparsers()
    for name, said in cli.COMMANDS.items():
        command = names.add_parser(name, help=said)
        if name == "tpu":
            _add_words(command, name, TPU_COMMANDS)
        elif name == "finetune":
            _add_words(command, name, dict.fromkeys(TASKS, ""))
        else:
            # It reads its own options before those of a config.
            _add_options(command, name, *(["STORE"] if name == "show-batch" else []))
    return root


def _add_words(command: argparse.ArgumentParser, name: str, words: dict[str, str]) -> None:
    second = command.add_subparsers()
    for word, said in words.items():
        _add_options(second.add_parser(word, help=said), name, word)


def _add_options(command: argparse.ArgumentParser, name: str, *words: str) -> None:
    """Adds what a command takes, unless it cannot be imported without one of the extras."""
    # It is taken away before a command reads its arguments.
    command.add_argument("--debug", action="store_true", help="show where an error came from")
    try:
        known = parser_of(cli.command(name), *words)
    except UserError:
        return
    for action in known._actions:  # argparse has no public list of them
        if "--help" in action.option_strings or action.help == argparse.SUPPRESS:
            continue
        kind = str(action.metavar or action.dest.rpartition(".")[2].upper())
        options: dict[str, Any] = {"help": (action.help or "").replace("%", "%%")}
        if action.nargs == 0:
            options["action"] = "store_true"
        elif kind.startswith("{"):
            options["choices"] = kind.strip("{}").split(",")
        given = command.add_argument(*(action.option_strings or [action.dest]), **options)
        if kind in _PATHS:
            given.complete = shtab.FILE  # type: ignore[attr-defined]
