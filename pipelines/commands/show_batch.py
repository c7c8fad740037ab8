"""``bert-jax show-batch``: what the model is trained on, as text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.text import Text

from bert_jax.runtime.errors import BadArgumentsError, printable
from bert_jax.training.batch import Arrays
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.store_cache import ensure_local
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.help import example
from pipelines.settings import run_config

# Of segment A, of segment B, and of what became of a token that is predicted.
_SEGMENTS = ("", "cyan")
_MASKED, _RANDOM, _KEPT = "bold yellow", "bold red", "bold green"
_USAGE = "bert-jax show-batch STORE [--config FILE] [--step N] [--rows N] [--a.b VALUE …]"


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="bert-jax show-batch",
        usage=_USAGE,
        description="Prints examples of a training batch, with masks, segments and labels.",
        epilog="All keys of a config are options too, such as --data.whole_words true.\n\n"
        + example("show-batch"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("store", nargs="?", metavar="STORE", help="folder of bert-jax prepare")
    parser.add_argument("--step", type=int, default=0, help="of the run (default: 0)")
    parser.add_argument("--rows", type=int, default=4, help="of the batch (default: 4)")
    try:
        options, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise BadArgumentsError(f"{error}  ({parser.prog} --help lists the options)") from None
    if options.store is None:
        raise BadArgumentsError(f"give a STORE: {_USAGE}")
    if not {"--config", "--phases"} & {word.partition("=")[0] for word in rest}:
        rest = ["--train.steps", str(options.step + 1), *rest]
    config = run_config([*rest, "--run_dir", "unused", "--data.store", options.store])
    if not 0 <= options.step < config.steps:
        raise BadArgumentsError(f"--step must be in [0, {config.steps}), not {options.step}")
    config = replace(config, data=replace(config.data, store=options.store))
    store = Store(ensure_local(options.store))
    batch = PretrainingData(store, config).batch_at(options.step)
    console = Console(highlight=False, soft_wrap=True)
    legend = Text("legend  ")
    for style, meaning in zip((*_SEGMENTS, _MASKED, _RANDOM, _KEPT), _LEGEND, strict=True):
        legend.append(meaning, style).append("  ")
    console.print(legend)
    size = batch.arrays["token_ids"].size
    console.print(f"step {options.step:,}: {batch.tokens:,} tokens, {batch.tokens / size:.1%} full")
    for row in range(min(options.rows, len(batch.arrays["token_ids"]))):
        for text in describe(batch.arrays, row, store.tokenizer):
            console.print(text)


_LEGEND = ("segment A", "segment B", "{hidden}", "{replaced → by a random token}", "{kept}")


def describe(arrays: Arrays, row: int, tokenizer: Tokenizer) -> list[Text]:
    """The sequences of a row, each as its label and its text."""
    found = []
    sequence = arrays["segment_ids"][row]
    for number in range(1, int(sequence.max()) + 1):
        (places,) = np.nonzero(sequence == number)
        text = Text(f"\nrow {row}, {_label(arrays, row, number - 1)}, {len(places)} tokens:")
        for place in places:
            _append(text, arrays, row, int(place), tokenizer)
        found.append(text)
    return found


def _label(arrays: Arrays, row: int, slot: int) -> str:
    if not arrays["nsp_weights"][row, slot]:
        return "one segment"
    return "B does not follow A" if arrays["nsp_labels"][row, slot] else "B follows A"


def _append(text: Text, arrays: Arrays, row: int, place: int, tokenizer: Tokenizer) -> None:
    token = int(arrays["token_ids"][row, place])
    style = _SEGMENTS[int(arrays["token_type_ids"][row, place])]
    used = arrays["mlm_weights"][row] > 0
    (slot,) = np.nonzero(used & (arrays["mlm_positions"][row] == place))
    if not len(slot):
        text.append(printable(tokenizer.spelled(token)), style)
        return
    original = int(arrays["mlm_targets"][row, slot[0]])
    word = printable(tokenizer.spelled(original))
    space, word = word[: len(word) - len(word.lstrip())], word.lstrip()
    text.append(space)
    if token == tokenizer.mask_id:
        text.append(f"{{{word}}}", _MASKED)
    elif token == original:
        text.append(f"{{{word}}}", _KEPT)
    else:
        other = printable(tokenizer.spelled(token)).strip()
        text.append(f"{{{word} → {other}}}", _RANDOM)
