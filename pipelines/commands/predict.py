"""``bert-jax predict``: predictions of a fine-tuned model for new inputs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from bert_jax.runtime import distributed
from bert_jax.runtime.console import summary
from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.training.partitioner import Partitioner
from pipelines.models.open import DTYPE_HELP, DTYPES, MODEL_HELP, open_model
from pipelines.models.predict import predict_file
from pipelines.settings import Namespace, command_parser, parse
from pipelines.tasks.experiment import write_records
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.task import Columns


def main(argv: Sequence[str]) -> None:
    options = _options(argv)
    started = time.monotonic()
    distributed.enable_compilation_cache()
    partitioner = Partitioner(distributed.devices()[: len(jax.local_devices())])
    model = open_model(options.model, partitioner).computing_in(options.dtype or "")
    predictions = predict_file(
        model,
        options.input,
        options.batch_size,
        length=options.length,
        columns=Columns(**vars(options.columns)),
        labeled=options.score,
        rank=options.rank,
        bad_rows=BadRows(options.bad_rows == "skip", 1.0),
    )
    write_records(predictions.ranked(), Path(options.output))
    if options.score and (metrics := predictions.metrics()):
        print(json.dumps(metrics, indent=1))  # noqa: T201
    summary(
        f"{options.output}: {len(predictions.records):,} predictions",
        started,
        ("serve", options.model),
        task=predictions.trained_task,
        of=options.input,
    )


def _options(argv: Sequence[str]) -> Namespace:
    parser = command_parser("predict", "Write the predictions of a fine-tuned model.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="file, folder, URL or data set, as for training; for tagging, also text (.txt)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON Lines file to write")
    parser.add_argument("--batch-size", type=int, default=32, help="rows per batch")
    parser.add_argument("--length", type=int, default=0, help="tokens per row (0: as trained)")
    for name in ("text", "pair", "label", "id"):
        parser.add_argument(f"--columns.{name}", default="", help=f"column of the {name}")
    parser.add_argument(
        "--bad-rows",
        choices=("stop", "skip"),
        default="stop",
        help="rows of a table with more or fewer fields than the others: stop at the first one, or"
        " skip and count them",
    )
    parser.add_argument(
        "--rank",
        action="store_true",
        help="rank the passages of each query (equal query, or query_id) with a pair classifier",
    )
    parser.add_argument(
        "--score", action="store_true", help="print metrics; the input must have labels"
    )
    parser.add_argument("--dtype", choices=DTYPES, help=DTYPE_HELP)
    options = parse(parser, argv)
    if options.length and options.length < 8:
        raise BadArgumentsError(f"--length must be at least 8, not {options.length}")
    if not Path(options.output).parent.is_dir():
        raise BadArgumentsError(
            f"--output {options.output}: its folder does not exist; create it first"
        )
    if Path(options.output).is_dir():
        raise BadArgumentsError(f"--output {options.output} is a folder; name a file in it")
    if options.batch_size < 1:
        raise BadArgumentsError(f"--batch-size must be at least 1, not {options.batch_size}")
    return options
