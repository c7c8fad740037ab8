"""The ``bert-jax`` console script: find a command and run it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from bert_jax import __version__
from bert_jax.runtime.entry_point import Main, run
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.help import commands, example

# Command -> summary for the list of commands. The module has the same name.
COMMANDS = {
    "train-tokenizer": "train a vocabulary on a corpus",
    "extend-tokenizer": "add domain words to the [unusedN] slots of a WordPiece vocabulary",
    "prepare": "tokenize a corpus into a store",
    "show-batch": "print training examples as text, with masks, segments and labels",
    "bench-loader": "measure how fast batches are made from a store",
    "pretrain": "train BERT on a store; run it again to resume",
    "finetune": "train a model on a task; run it again to resume",
    "predict": "write the predictions of a fine-tuned model",
    "evaluate": "compute exact held-out losses and accuracies of a model",
    "fill-mask": "rank the tokens that could replace [MASK]",
    "report": "write one HTML page of one or several runs: curves, data, samples, config",
    "extract-features": "write hidden states of texts as .npz or Arrow",
    "convert": "write a model in the format of Hugging Face or of bert-jax",
    "serve": "serve a web page and a JSON API to try a model",
    "inspect": "show shapes, parameters, step and digest of a model or preset",
    "doctor": "check devices, versions and storage, and suggest fixes",
    "completion": "print a script for bash, zsh or fish that completes commands and options",
    "tpu": "run on Cloud TPU slices: check, request, watch and stop them",
}


def usage() -> str:
    """Return the list of commands."""
    return (
        f"bert-jax {__version__}: pre-train and use BERT in JAX\n\n"
        f"usage: bert-jax COMMAND [options]     bert-jax COMMAND --help\n\n{commands(COMMANDS)}\n\n"
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
        from pipelines.settings import nearest

        raise BadArgumentsError(f"unknown command {name!r}{nearest(name, COMMANDS)}")
    module = "tpu.__main__" if name == "tpu" else f"pipelines.commands.{name.replace('-', '_')}"
    return importlib.import_module(module)


if __name__ == "__main__":
    main()
