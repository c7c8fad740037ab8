"""``bert-jax completion SHELL``: print a script that completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Literal

import shtab

from bert_jax.runtime.errors import UserError
from pipelines.commands import cli
from pipelines.help import COMMANDS
from pipelines.settings import command_parser, parse, parser_of
from pipelines.tasks.registry import TASKS

# Placeholders of options and arguments whose value is a file or folder.
_PATHS = frozenset({"DIR", "FILE", "INIT", "MODEL", "OUT", "RUN", "RUN_DIR", "STORE"})


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "completion", "Print a shell script with which Tab completes commands and options."
    )
    parser.add_argument("shell", metavar="SHELL", type=Literal["bash", "zsh", "fish"])
    options = parse(parser, argv)
    print(shtab.complete(all_commands(), options.shell))  # noqa: T201


def all_commands() -> argparse.ArgumentParser:
    """Return a parser that lists all commands and options, but cannot parse."""
    root = argparse.ArgumentParser("bert-jax")
    root.add_argument("--version", action="store_true", help="print the version")
    subparsers = root.add_subparsers()
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary)
        if name == "tpu":
            _add_words(command, name, cli.module_of(name).COMMANDS)
        elif name == "finetune":
            _add_words(command, name, {task: kind.summary for task, kind in TASKS.items()})
        else:
            # show-batch parses its own options before those of a config.
            _add_options(command, name, *(["STORE"] if name == "show-batch" else []))
    return root


def _add_words(command: argparse.ArgumentParser, name: str, summaries: dict[str, str]) -> None:
    subparsers = command.add_subparsers()
    for word, summary in summaries.items():
        _add_options(subparsers.add_parser(word, help=summary), name, word)


def _add_options(command: argparse.ArgumentParser, name: str, *words: str) -> None:
    """Add the options of a command, unless it needs an extra that is not installed."""
    # The entry point removes --debug before a command parses its options.
    command.add_argument("--debug", action="store_true", help="print tracebacks of errors")
    try:
        parser = parser_of(cli.command(name), *words)
    except UserError:
        return
    for action in parser._actions:  # argparse has no public list of them
        if "--help" in action.option_strings or action.help == argparse.SUPPRESS:
            continue
        kind = str(action.metavar or action.dest.rpartition(".")[2].upper())
        options: dict[str, Any] = {"help": (action.help or "").replace("%", "%%")}
        if action.nargs == 0:
            options["action"] = "store_true"
        elif kind.startswith("{"):
            options["choices"] = kind.strip("{}").split(",")
        argument = command.add_argument(*(action.option_strings or [action.dest]), **options)
        if kind in _PATHS:
            argument.complete = shtab.FILE  # type: ignore[attr-defined]
