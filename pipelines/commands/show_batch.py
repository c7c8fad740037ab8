"""``bert-jax show-batch``: print examples of a training batch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.batches.preview import preview
from pipelines.data.store.store_cache import ensure_local
from pipelines.data.store.token_store import Store
from pipelines.help import example
from pipelines.settings import run_config

_USAGE = "bert-jax show-batch STORE [--config FILE] [--step N] [--rows N] [--a.b VALUE …]"


def main(argv: Sequence[str]) -> None:
    options, config_options = _parse(argv)
    if not {"--config", "--phases"} & {word.partition("=")[0] for word in config_options}:
        config_options = ["--train.steps", str(options.step + 1), *config_options]
    data = ("--data.store", options.store, "--data.stores", "[]")
    config = run_config([*config_options, "--run_dir", "unused", *data])
    if not 0 <= options.step < config.steps:
        raise BadArgumentsError(f"--step must be in [0, {config.steps}), not {options.step}")
    config = replace(config, data=replace(config.data, store=options.store))
    console = Console(highlight=False, soft_wrap=True)
    store = Store(ensure_local(options.store))
    for text in preview(store, config, options.step, options.rows):
        console.print(text)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of the command, and the remaining ones, which are keys of the config."""
    parser = argparse.ArgumentParser(
        prog="bert-jax show-batch",
        usage=_USAGE,
        description="Print examples of a training batch, with masks, segments and labels.",
        epilog="All keys of a config are options too, such as --data.whole_words true.\n\n"
        + example("show-batch"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("store", nargs="?", metavar="STORE", help="folder made by bert-jax prepare")
    parser.add_argument(
        "--step", type=int, default=0, help="training step whose batch to show (default: 0)"
    )
    parser.add_argument("--rows", type=int, default=4, help="number of rows to show (default: 4)")
    try:
        options, config_options = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise BadArgumentsError(f"{error}  ({parser.prog} --help lists the options)") from None
    if options.store is None:
        raise BadArgumentsError(f"give a STORE: {_USAGE}")
    return options, config_options
