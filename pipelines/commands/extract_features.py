"""``bert-jax extract-features``: write hidden states of texts for other programs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from bert_jax.runtime import distributed
from bert_jax.runtime.console import summary
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.models.api import Bert, check_layers
from pipelines.models.features import Extraction, extract
from pipelines.models.open import DTYPE_HELP, DTYPES, MODEL_HELP
from pipelines.models.states import Pooling
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("extract-features", "Write hidden states of every text in a file.")
    # argparse treats -1,-2 as an option, and has no public way to change that.
    parser._negative_number_matcher = re.compile(r"-\d")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--input",
        required=True,
        help='.txt with a text or "a ||| b" per line, or .jsonl {"text": …}; a file or URL',
    )
    parser.add_argument("--output", required=True, help=".npz, or .arrow for Arrow IPC")
    parser.add_argument(
        "--layers", default="-1", help="list such as -1,-2; 0 is the embeddings, -1 the last layer"
    )
    parser.add_argument(
        "--pooling",
        choices=("cls", "mean", "max", "none"),
        help="pooling over the tokens of a text (default: mean); none: a vector per token",
    )
    parser.add_argument(
        "--words",
        action="store_true",
        help="write a vector per word instead: the mean over its tokens",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="rows per batch; short texts share rows"
    )
    parser.add_argument("--dtype", choices=DTYPES, help=DTYPE_HELP)
    options = parse(parser, argv)
    started = time.monotonic()
    if options.words and options.pooling:
        raise BadArgumentsError("--words and --pooling cannot be combined; choose one")
    if options.batch_size < 1:
        raise BadArgumentsError(f"--batch-size must be at least 1, not {options.batch_size}")
    pooling: Pooling | None = None if options.pooling == "none" else options.pooling or "mean"
    layers = _layers(options.layers)
    distributed.enable_compilation_cache()
    bert = Bert(options.model, options.dtype or "")
    check_layers(bert.model.network, layers)
    if len({layer % (bert.model.network.layers + 1) for layer in layers}) < len(layers):
        raise BadArgumentsError(f"--layers {options.layers} names a layer twice; name it once")
    extraction = Extraction(layers, pooling, options.words, options.batch_size)
    texts = extract(bert, options.input, Path(options.output), extraction)
    reader = "pyarrow.ipc.open_file" if options.output.endswith(".arrow") else "numpy.load"
    summary(
        f"{options.output}: {texts:,} texts, vectors of {bert.model.network.hidden_size} numbers",
        started,
        ("serve", options.model),
        opened_by=f"{reader}({options.output!r})",
    )


def _layers(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"-?\d+(,-?\d+)*", text):
        raise BadArgumentsError(f"--layers {text!r} is not a list of numbers such as -1,-2")
    return tuple(map(int, text.split(",")))
