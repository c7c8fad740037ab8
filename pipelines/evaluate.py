"""``bert-jax evaluate``: exact held-out losses and accuracies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import parallel
from bert_jax.batch import Batch
from bert_jax.console import progress
from bert_jax.errors import BadInputError
from bert_jax.evaluate import evaluate
from bert_jax.steps import Steps
from pipelines import cli
from pipelines.data.loader import PretrainingData
from pipelines.data.store import Split, Store
from pipelines.model import Model, open_model
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("evaluate", "Measures a model on all held-out text of a store.")
    parser.add_argument("model", metavar="MODEL", help="run folder or RUN/checkpoints/STEP")
    parser.add_argument("--store", help="another store than the one it was trained on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    parallel.enable_compilation_cache()
    layout = parallel.Layout(parallel.devices())
    model = open_model(Path(options.model), layout)
    store = Path(options.store or model.config.data.store)
    if not options.store and not store.exists():
        raise BadInputError(f"the store of the run, {store}, is not here; say where: --store DIR")
    found = measure(model, Store(store), layout)
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return
    for name, value in found.items():
        if value is None:
            continue
        print(f"{name:24} {value:,}" if isinstance(value, int) else f"{name:24} {value:.4f}")  # noqa: T201


def measure(model: Model, store: Store, layout: parallel.Layout) -> dict[str, Any]:
    """Losses and accuracies over every held-out pair, beside what knows no context.

    ``constant_guess_accuracy`` is that of always naming the most frequent of the tokens to be
    predicted; ``unigram_entropy`` (nats) is the least loss that token frequencies alone can reach.

    Raises:
        BadInputError: Model and store do not fit, or nothing is held out.
    """
    tokenizer = store.tokenizer
    if tokenizer.digest != model.meta.data["tokenizer"]:
        raise BadInputError(
            f"{store.folder} was made with another tokenizer than the model"
            f" ({tokenizer.digest[:12]}, model {model.meta.data['tokenizer'][:12]});"
            " prepare the text again with --tokenizer RUN/tokenizer"
        )
    store.verify("heldout")
    phase = model.config.phases[-1]
    count = len(layout.devices)
    batch_size = -(-phase.batch_size // count) * count
    data = PretrainingData(store, model.config)
    targets = np.zeros(tokenizer.vocab_size, np.int64)
    total = data.heldout_batches(phase.length, batch_size)
    batches = _counted(data.heldout(phase.length, batch_size), targets, total)
    step = layout.eval_step(Steps.of(model.config))
    found = evaluate(step, layout, model.params, batches)
    if not found:
        raise BadInputError(
            f"{store.folder} holds out fewer than two documents; prepare with a larger --heldout"
        )
    split = store.split("heldout")
    return found | {
        "constant_guess_accuracy": float(targets.max() / targets.sum()),
        "unigram_entropy": entropy(_frequencies(split, tokenizer.vocab_size)),
        "tokens": split.tokens,
        "step": model.meta.step,
    }


def entropy(counts: np.ndarray) -> float:
    """Of the distribution that `counts` [V] describes, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _frequencies(split: Split, vocab_size: int) -> np.ndarray:
    counts = [np.bincount(tokens, minlength=vocab_size) for _, tokens in split.shards()]
    return np.sum(counts, axis=0)


def _counted(batches: Iterator[Batch], targets: np.ndarray, total: int) -> Iterator[Batch]:
    """Passes batches on and adds up in `targets` [V] how often each token is to be predicted."""
    with progress("evaluating batch", total) as show:
        for number, batch in enumerate(batches, start=1):
            used = batch.arrays["mlm_weights"] > 0
            targets += np.bincount(batch.arrays["mlm_targets"][used], minlength=len(targets))
            yield batch
            show(number, "")


if __name__ == "__main__":
    cli.run(main)
