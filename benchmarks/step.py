"""The pre-training step here and in PyTorch: tokens per second, same sizes, same batches.

    python benchmarks/step.py --size base --length 128 --batch 32
    python benchmarks/step.py --size mini small --length 128 --batch 64 --dtypes float32 bfloat16

Needs the extra ``parity``, and for a GPU builds of jax and torch that have it. Every contestant
runs in a process of its own, one after the other, several rounds; printed is the median of each and
the ratio to the best of transformers. A step is forward pass, both losses, backward pass, clipping
and AdamW, with dropout; rows are full, and all have their share of predictions. BertForPreTraining
of transformers runs as it is, with eager attention, with SDPA, and compiled; "predicted" is the
compiled one changed by hand to score the predicted positions only, as we do. bfloat16 is autocast.
All have the same environment, in which a processor wants GLIBC_TUNABLES=glibc.malloc.hugetlb=1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

VOCABULARY = 30_522
STOCK, CHANGED = ("eager", "sdpa", "compiled"), "predicted"
WARM, CHUNKS = 3, 5  # updates before the clock; medians are of so many stretches


def main() -> None:
    """Prints the table, or measures one contestant (``--one``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs="+", default=["mini"])
    parser.add_argument("--length", nargs="+", type=int, default=[128])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--updates", type=int, default=5, help="of a stretch")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(**json.loads(options.one))))
        return
    print("| size | length | contestant | dtype | tokens/s | against transformers' best |")
    print("|---|---:|---|---|---:|---:|")
    for size in options.size:
        for length in options.length:
            table(size, length, options)


def table(size: str, length: int, options: Any) -> None:
    """The rows of one size and length."""
    speeds: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for dtype in options.dtypes:
            for who in ("bert-jax", *STOCK, CHANGED):
                what = {"who": who, "dtype": dtype, "size": size, "length": length}
                what |= {"batch": options.batch, "updates": options.updates}
                command = [sys.executable, __file__, "--one", json.dumps(what)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"<!-- {what}: {done.stderr.strip().splitlines()[-1:]} -->")
                    continue
                speed = json.loads(done.stdout.splitlines()[-1])
                speeds.setdefault((who, dtype), []).append(speed)
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    best = max((speed for (who, _), speed in medians.items() if who in STOCK), default=np.nan)
    for (who, dtype), speed in medians.items():
        print(f"| {size} | {length} | {who} | {dtype} | {speed:,.0f} | {speed / best:.2f} |")
    sys.stdout.flush()


def measured(who: str, dtype: str, size: str, length: int, batch: int, updates: int) -> float:
    """Tokens per second of one contestant."""
    update = (here if who == "bert-jax" else there)(who, dtype, size, length, batch)
    update(WARM)
    seconds = []
    for _ in range(CHUNKS):
        started = time.perf_counter()
        update(updates)
        seconds.append(time.perf_counter() - started)
    return batch * length * updates / statistics.median(seconds)


def arrays(length: int, batch: int) -> dict[str, np.ndarray]:
    """A batch of full rows."""
    rng = np.random.default_rng(0)
    P = round(0.15 * length)
    shape = (batch, length)
    places = rng.permuted(np.tile(np.arange(length, dtype=np.int32), (batch, 1)), axis=1)
    return {
        "token_ids": rng.integers(1000, VOCABULARY, shape, np.int32),
        "token_type_ids": np.tile((np.arange(length) >= length // 2).astype(np.int32), (batch, 1)),
        "segment_ids": np.ones(shape, np.int32),
        "mlm_positions": np.sort(places[:, :P], axis=1),
        "mlm_targets": rng.integers(1000, VOCABULARY, (batch, P), np.int32),
        "mlm_weights": np.ones((batch, P), np.float32),
        "nsp_labels": rng.integers(0, 2, (batch, 1), np.int32),
        "nsp_weights": np.ones((batch, 1), np.float32),
    }  # fmt: skip


def here(who: str, dtype: Any, size: str, length: int, batch: int) -> Callable[[int], None]:
    """Runs so many of our updates."""
    import jax
    from pretraining import begun

    from bert_jax.config.run import ModelConfig, Phase, RunConfig
    from bert_jax.runtime.distributed import devices
    from bert_jax.training.partitioner import Partitioner

    del who
    model = ModelConfig(preset=f"bert-{size}", vocab_size=VOCABULARY, dtype=dtype)
    config = RunConfig(run_dir="-", model=model, phases=(Phase(length, 1000, batch),))
    partitioner = Partitioner(devices())
    (state, step), placed = (
        begun(config, partitioner),
        partitioner.shard_batch(arrays(length, batch)),
    )

    def update(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, placed)
        jax.block_until_ready(metrics)

    return update


def there(who: str, dtype: str, size: str, length: int, batch: int) -> Callable[[int], None]:
    """Runs so many of PyTorch's updates."""
    import torch
    from pretraining_torch import DEVICE, losses, network, stock_loss

    if DEVICE == "cuda":
        torch.set_float32_matmul_precision("high")
    model = network(size, VOCABULARY, attention="eager" if who == "eager" else "sdpa")
    rule = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    given = {n: torch.tensor(a).to(DEVICE) for n, a in arrays(length, batch).items()}
    given = {n: a.long() if a.dtype == torch.int32 else a for n, a in given.items()}
    labels = torch.full_like(given["token_ids"], -100)
    given["labels"] = labels.scatter(1, given["mlm_positions"], given["mlm_targets"])
    run = losses if who == CHANGED else stock_loss
    if who in ("compiled", CHANGED):
        run = torch.compile(run)

    def update(count: int) -> None:
        for _ in range(count):
            with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = sum(run(model, given))
            rule.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rule.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return update


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    main()
