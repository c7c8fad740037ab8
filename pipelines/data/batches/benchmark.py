"""Measure how fast batches are made from a store."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from bert_jax.config.run import RunConfig
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.store_cache import ensure_local
from pipelines.data.store.token_store import Store


def benchmark(config: RunConfig, seconds: float, cold: bool) -> dict[str, Any]:
    """Make batches from step 0 on, as in training.

    Args:
        config: Names the store; the first phase determines the batches.
        seconds: Approximate duration.
        cold: Start without the store in the page cache.

    Returns:
        ``tokens_per_second`` and ``slots_per_second`` (without and with padding), ``fill`` (their
        ratio), ``batches``, and the seconds for reading the store (``warm_seconds``, only if cold)
        and for the first batch with its plan (``plan_seconds``).
    """
    store = Store(ensure_local(config.data.store))
    if cold:
        _drop_from_cache(store.folder)
    started = time.monotonic()
    if cold:
        split = store.split("train")
        split.warm((0, split.documents))
    warm_seconds = time.monotonic() - started
    started = time.monotonic()
    data = PretrainingData(store, config)
    data.batch_at(0)
    plan_seconds = time.monotonic() - started
    started = time.monotonic()
    step = tokens = 0
    while time.monotonic() - started < seconds:
        step += 1
        tokens += data.batch_at(step).tokens
    elapsed = time.monotonic() - started
    slots = step * config.phases[0].batch_size * config.phases[0].length
    return {
        "tokens_per_second": round(tokens / elapsed, 1),
        "slots_per_second": round(slots / elapsed, 1),
        "fill": round(tokens / slots, 4),
        "batches": step,
        "plan_seconds": round(plan_seconds, 3),
        "warm_seconds": round(warm_seconds, 3),
    }


def _drop_from_cache(folder: Path) -> None:
    """Ask the kernel to drop the files of a store from the page cache."""
    for path in folder.glob("*.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
