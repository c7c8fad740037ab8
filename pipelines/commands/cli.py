"""The ``bert-jax`` console script: find the command and run it."""

from __future__ import annotations

import importlib
import sys

from bert_jax import __version__
from bert_jax.runtime.entry_point import Main, run
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.help import commands, example

# Command -> what the list of commands says of it. The module has the same name.
COMMANDS = {
    "train-tokenizer": "learn a vocabulary from a corpus",
    "extend-tokenizer": "put words of a field into the [unusedN] places of a WordPiece vocabulary",
    "prepare": "turn a corpus into a token store",
    "show-batch": "examples of a training batch as text, with masks, segments and labels",
    "bench-loader": "how fast batches are made from a store",
    "pretrain": "train BERT on a store; the same command again resumes",
    "finetune": "train a model on a task; the same command again resumes",
    "predict": "what a fine-tuned model says of new inputs",
    "evaluate": "exact held-out losses and accuracies of a model",
    "fill-mask": "what the model puts in place of [MASK]",
    "report": "one HTML page of a run, or of several: curves, data, samples, config",
    "extract-features": "hidden states of texts, as .npz or Arrow",
    "convert": "write a model in the format of Hugging Face, or in our own",
    "serve": "a page and a JSON API on this computer, to try a model",
    "inspect": "shapes, parameters, step and digest of a model or preset",
    "doctor": "is this machine ready? devices, versions, disk or bucket; and how to mend it",
    "completion": "a script for bash, zsh or fish that completes commands and options",
    "tpu": "Cloud TPU slices: what there is, what fits and what it costs",
}


def usage() -> str:
    """The list of commands."""
    return (
        f"bert-jax {__version__}: pre-train and use BERT in JAX\n\n"
        f"usage: bert-jax COMMAND [options]     bert-jax COMMAND --help\n\n{commands(COMMANDS)}\n\n"
        "Any command takes --debug to show where an error came from; --version tells the version."
        f"\n\n{example('pretrain')}"
    )


def main() -> None:
    """Entry point of the console script."""
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help", "help"):
        run(lambda _: print(usage(), flush=True))  # noqa: T201
    elif argv[0] == "--version":
        run(lambda _: print(__version__, flush=True))  # noqa: T201
    else:
        run(lambda rest: command(argv[0])(rest), argv[1:])


def command(name: str) -> Main:
    """What runs the command of that name.

    Raises:
        BadArgumentsError: There is none.
    """
    if name not in COMMANDS:
        from pipelines.settings import nearest

        raise BadArgumentsError(f"unknown command {name!r}{nearest(name, COMMANDS)}")
    module = "tpu.__main__" if name == "tpu" else f"pipelines.commands.{name.replace('-', '_')}"
    return importlib.import_module(module).main


if __name__ == "__main__":
    main()
