"""``bert-jax bench-loader``: how fast batches are made from a store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_jax.config.run import DataConfig, ModelConfig, Phase, RunConfig
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.store_cache import ensure_local
from pipelines.data.store.token_store import Store
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("bench-loader", "Measures how fast batches are made, on one core.")
    parser.add_argument("store", metavar="STORE", help="folder made by bert-jax prepare")
    parser.add_argument("--batch", type=int, default=256, help="sequences of a batch")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--packing", action="store_true", help="several sequences in one row")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure")
    parser.add_argument(
        "--cold", action="store_true", help="begin with nothing of the store in memory"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    if options.batch < 1 or options.length < 5 or not options.seconds > 0:
        raise BadArgumentsError("--batch, --length (at least 5) and --seconds must be above 0")
    config = RunConfig(
        run_dir="unused",
        data=DataConfig(store=options.store, packing=options.packing),
        model=ModelConfig(max_positions=options.length),
        phases=(Phase(options.length, 1 << 30, options.batch),),
    )
    found = measure(config, options.seconds, options.cold)
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return
    for name, value in found.items():
        print(f"{name:20} {value:,.3f}" if isinstance(value, float) else f"{name:20} {value:,}")  # noqa: T201


def measure(config: RunConfig, seconds: float, cold: bool) -> dict[str, Any]:
    """Makes batches for about so many seconds, as training would from step 0.

    Returns:
        ``tokens_per_second`` and ``slots_per_second`` (without and with padding), ``fill`` (their
        ratio), and the seconds that reading the store (``warm_seconds``, only if cold) and the
        first batch with its plan (``plan_seconds``) took.
    """
    store = Store(ensure_local(config.data.store))
    if cold:
        _forget(store.folder)
    begun = time.monotonic()
    if cold:
        split = store.split("train")
        split.warm((0, split.documents))
    warm = time.monotonic() - begun
    begun = time.monotonic()
    data = PretrainingData(store, config)
    data.batch_at(0)
    planned = time.monotonic() - begun
    begun = time.monotonic()
    step = tokens = 0
    while time.monotonic() - begun < seconds:
        step += 1
        tokens += data.batch_at(step).tokens
    taken = time.monotonic() - begun
    slots = step * config.phases[0].batch_size * config.phases[0].length
    return {
        "tokens_per_second": round(tokens / taken, 1),
        "slots_per_second": round(slots / taken, 1),
        "fill": round(tokens / slots, 4),
        "batches": step,
        "plan_seconds": round(planned, 3),
        "warm_seconds": round(warm, 3),
    }


def _forget(folder: Path) -> None:
    """Asks the kernel to drop the files of a store from memory."""
    for path in folder.glob("*.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
