"""``bert-jax bench-loader``: measure how fast batches are made from a store."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import DataConfig, Phase, RunConfig
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.batches.benchmark import benchmark
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("bench-loader", "Measure how fast batches are made, on one core.")
    parser.add_argument("store", metavar="STORE", help="folder made by bert-jax prepare")
    parser.add_argument("--batch", type=int, default=256, help="sequences per batch")
    parser.add_argument("--length", type=int, default=128, help="tokens per sequence")
    parser.add_argument("--packing", action="store_true", help="several sequences in one row")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of the measurement")
    parser.add_argument(
        "--cold", action="store_true", help="start without the store in the page cache"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    if options.batch < 1 or options.length < 5 or not options.seconds > 0:
        raise BadArgumentsError(
            "--batch must be at least 1, --length at least 5, and --seconds above 0"
        )
    config = RunConfig(
        run_dir="unused",
        data=DataConfig(store=options.store, packing=options.packing),
        model=ModelConfig(max_positions=options.length),
        phases=(Phase(options.length, 1 << 30, options.batch),),
    )
    results = benchmark(config, options.seconds, options.cold)
    if options.json:
        print(json.dumps(results))  # noqa: T201
        return
    for name, value in results.items():
        print(f"{name:20} {value:,.3f}" if isinstance(value, float) else f"{name:20} {value:,}")  # noqa: T201
