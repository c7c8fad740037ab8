"""Exact held-out losses: sums over all batches, divided once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from bert_jax.nn.encoder import Params
from bert_jax.training.batch import Batch
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.step import LossSums, means

_LARGEST_EXPONENT = 700.0  # a diverged model has a perplexity that is too large, not an error


def evaluate(
    eval_step: Callable[..., LossSums],
    partitioner: Partitioner,
    params: Params,
    batches: Iterator[Batch],
) -> dict[str, Any]:
    """Compute losses, accuracies and perplexity over `batches`.

    Args:
        eval_step: `Partitioner.eval_step`.
        partitioner: Shards the batches.
        params: Parameters of the model.
        batches: This process's rows of each batch.

    Returns:
        loss, mlm_loss, nsp_loss (nats), mlm_accuracy, nsp_accuracy, perplexity (of masked tokens),
        predictions (masked tokens), sequences (with a label); empty if there is no batch. Without
        any label the two of nsp are None.
    """
    # Sums are fetched one step late, so that the next batch is sent while this one is computed.
    # They are added in float64: thousands of float32 sums would lose digits.
    total: LossSums | None = None
    pending: LossSums | None = None
    for batch in batches:
        launched = eval_step(params, partitioner.shard_batch(batch.arrays))
        total, pending = _add(total, pending), launched
    total = _add(total, pending)
    if total is None:
        return {}
    values: dict[str, Any] = {name: float(value) for name, value in means(total).items()}
    mlm, nsp = total["mlm"], total["nsp"]
    if not nsp.count:
        values |= {"nsp_loss": None, "nsp_accuracy": None}
    return values | {
        "perplexity": math.exp(min(values["mlm_loss"], _LARGEST_EXPONENT)),
        "predictions": int(mlm.count),
        "sequences": int(nsp.count),
    }


def _add(total: LossSums | None, more: LossSums | None) -> LossSums | None:
    if more is None:
        return total
    fetched = jax.tree.map(np.float64, jax.device_get(more))
    return fetched if total is None else jax.tree.map(np.add, total, fetched)
