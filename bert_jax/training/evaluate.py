"""Exact held-out losses: sums over all batches, divided once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from bert_jax.nn.encoder import Params
from bert_jax.training.batch import Batch
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.step import LossSums, means

_LARGEST_EXPONENT = 700.0  # a diverged model has a perplexity that is too large, not an error

# Results that are averaged over the stores of a mixture; the losses are also reported of each.
_LOSSES = ("loss", "mlm_loss", "nsp_loss")
_MEANS = (*_LOSSES, "mlm_accuracy", "nsp_accuracy")


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
        "perplexity": _perplexity(values["mlm_loss"]),
        "predictions": int(mlm.count),
        "sequences": int(nsp.count),
    }


def mean_of_stores(results: Mapping[str, tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """Combine the results of `evaluate` on the stores of a mixture.

    Args:
        results: Name of a store -> its fraction of the rows, and its results; a store without
            held-out text has none and does not count.

    Returns:
        The results as of `evaluate`: losses and accuracies are means, weighted by the fractions,
        and perplexity follows from the mean loss; predictions and sequences are sums. Then
        ``LOSS/NAME``: the losses of each store.
    """
    evaluated = {name: result for name, result in results.items() if result[1]}
    if not evaluated:
        return {}
    values = {name: _weighted_mean(name, list(evaluated.values())) for name in _MEANS}
    return {
        **values,
        "perplexity": _perplexity(values["mlm_loss"]),
        **{
            name: sum(result[name] for _, result in evaluated.values())
            for name in ("predictions", "sequences")
        },
        **{
            f"{metric}/{name}": result[metric]
            for name, (_, result) in evaluated.items()
            for metric in _LOSSES
        },
    }


def _weighted_mean(name: str, results: list[tuple[float, dict[str, Any]]]) -> Any:
    """Return the mean over the results that have a value; None if none has one."""
    values = [(weight, result[name]) for weight, result in results if result[name] is not None]
    total = sum(weight for weight, _ in values)
    return sum(weight * value for weight, value in values) / total if values else None


def _perplexity(mlm_loss: float) -> float:
    return math.exp(min(mlm_loss, _LARGEST_EXPONENT))


def _add(total: LossSums | None, more: LossSums | None) -> LossSums | None:
    if more is None:
        return total
    fetched = jax.tree.map(np.float64, jax.device_get(more))
    return fetched if total is None else jax.tree.map(np.add, total, fetched)
