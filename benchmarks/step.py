"""Compare the pre-training step with PyTorch: tokens per second, same sizes, same batches.

    python benchmarks/step.py --size base --length 128 --batch 32
    python benchmarks/step.py --size mini small --length 128 --batch 64 --dtypes float32 bfloat16

Needs the extra ``parity`` and, for a GPU, builds of jax and torch with GPU support. Every
contestant runs in a separate process, one after the other, in several rounds. Prints the median of
each and the ratio to the best of transformers. A step is forward pass, both losses, backward pass,
clipping and AdamW, with dropout; rows are full, and 15% of the tokens are predicted.
BertForPreTraining of transformers runs unchanged, with eager attention, with SDPA, and compiled;
"predicted" is the compiled model, modified to score the predicted positions only, as bert-jax does.
bfloat16 is autocast. All have the same environment; on a CPU set
GLIBC_TUNABLES=glibc.malloc.hugetlb=1.
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
STOCK, MODIFIED = ("eager", "sdpa", "compiled"), "predicted"
WARM_UP, MEASUREMENTS = 3, 5  # updates before the timing; number of timings of a median


def main() -> None:
    """Print the table, or measure one contestant (``--child``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs="+", default=["mini"])
    parser.add_argument("--length", nargs="+", type=int, default=[128])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--updates", type=int, default=5, help="per measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(**json.loads(options.child))))
        return
    print("| size | length | contestant | dtype | tokens/s | relative to best transformers |")
    print("|---|---:|---|---|---:|---:|")
    for size in options.size:
        for length in options.length:
            table(size, length, options)


def table(size: str, length: int, options: Any) -> None:
    """Print the rows of one size and length."""
    speeds: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for dtype in options.dtypes:
            for contestant in ("bert-jax", *STOCK, MODIFIED):
                case = {"contestant": contestant, "dtype": dtype, "size": size, "length": length}
                case |= {"batch": options.batch, "updates": options.updates}
                command = [sys.executable, __file__, "--child", json.dumps(case)]
                process = subprocess.run(command, capture_output=True, text=True, check=False)
                if process.returncode:
                    print(f"<!-- {case}: {process.stderr.strip().splitlines()[-1:]} -->")
                    continue
                speed = json.loads(process.stdout.splitlines()[-1])
                speeds.setdefault((contestant, dtype), []).append(speed)
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    stock = [speed for (contestant, _), speed in medians.items() if contestant in STOCK]
    best = max(stock, default=np.nan)
    for (contestant, dtype), speed in medians.items():
        print(f"| {size} | {length} | {contestant} | {dtype} | {speed:,.0f} | {speed / best:.2f} |")
    sys.stdout.flush()


def measured(
    contestant: str, dtype: str, size: str, length: int, batch: int, updates: int
) -> float:
    """Return the tokens per second of one contestant."""
    make = bert_jax_updates if contestant == "bert-jax" else pytorch_updates
    update = make(contestant, dtype, size, length, batch)
    update(WARM_UP)
    seconds = []
    for _ in range(MEASUREMENTS):
        started = time.perf_counter()
        update(updates)
        seconds.append(time.perf_counter() - started)
    return batch * length * updates / statistics.median(seconds)


def arrays(length: int, batch: int) -> dict[str, np.ndarray]:
    """Return a batch of full rows."""
    rng = np.random.default_rng(0)
    P = round(0.15 * length)
    shape = (batch, length)
    positions = rng.permuted(np.tile(np.arange(length, dtype=np.int32), (batch, 1)), axis=1)
    return {
        "token_ids": rng.integers(1000, VOCABULARY, shape, np.int32),
        "token_type_ids": np.tile((np.arange(length) >= length // 2).astype(np.int32), (batch, 1)),
        "segment_ids": np.ones(shape, np.int32),
        "mlm_positions": np.sort(positions[:, :P], axis=1),
        "mlm_targets": rng.integers(1000, VOCABULARY, (batch, P), np.int32),
        "mlm_weights": np.ones((batch, P), np.float32),
        "nsp_labels": rng.integers(0, 2, (batch, 1), np.int32),
        "nsp_weights": np.ones((batch, 1), np.float32),
    }  # fmt: skip


def bert_jax_updates(
    contestant: str, dtype: Any, size: str, length: int, batch: int
) -> Callable[[int], None]:
    """Return a function that runs a number of bert-jax updates."""
    import jax
    from pretraining import initial_state_and_step

    from bert_jax.config.model import ModelConfig
    from bert_jax.config.run import Phase, RunConfig
    from bert_jax.runtime.distributed import devices
    from bert_jax.training.partitioner import Partitioner

    del contestant
    model = ModelConfig(preset=f"bert-{size}", vocab_size=VOCABULARY, dtype=dtype)
    config = RunConfig(run_dir="-", model=model, phases=(Phase(length, 1000, batch),))
    partitioner = Partitioner(devices())
    state, step = initial_state_and_step(config, partitioner)
    sharded = partitioner.shard_batch(arrays(length, batch))

    def update(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, sharded)
        jax.block_until_ready(metrics)

    return update


def pytorch_updates(
    contestant: str, dtype: str, size: str, length: int, batch: int
) -> Callable[[int], None]:
    """Return a function that runs a number of PyTorch updates."""
    import torch
    from pretraining_torch import DEVICE, losses, network, stock_loss

    if DEVICE == "cuda":
        torch.set_float32_matmul_precision("high")
    model = network(size, VOCABULARY, attention="eager" if contestant == "eager" else "sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tensors = {n: torch.tensor(a).to(DEVICE) for n, a in arrays(length, batch).items()}
    tensors = {n: a.long() if a.dtype == torch.int32 else a for n, a in tensors.items()}
    labels = torch.full_like(tensors["token_ids"], -100)
    tensors["labels"] = labels.scatter(1, tensors["mlm_positions"], tensors["mlm_targets"])
    run = losses if contestant == MODIFIED else stock_loss
    if contestant in ("compiled", MODIFIED):
        run = torch.compile(run)

    def update(count: int) -> None:
        for _ in range(count):
            with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = sum(run(model, tensors))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return update


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    main()
