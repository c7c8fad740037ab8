"""``bert-jax evaluate``: exact held-out losses and accuracies of a model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from bert_jax.runtime import distributed
from bert_jax.runtime.console import summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import CLOUD
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches import held_out
from pipelines.data.store.store_cache import ensure_local
from pipelines.data.store.token_store import Store
from pipelines.models.evaluate import evaluate, masked_sentence
from pipelines.models.open import MODEL_HELP, LoadedModel, open_model
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    parser = command_parser("evaluate", "Evaluate a model on all held-out text of a store.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--store", help="store to evaluate on (default: the store of the run)")
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help="tokens per sequence (default: the length of the run's last phase, or 128)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    started = time.monotonic()
    distributed.enable_compilation_cache()
    model = open_model(options.model, Partitioner(distributed.devices()))
    store = Store(ensure_local(options.store or _trained_on(model)))
    metrics = evaluate(model, store, options.length)
    if options.json:
        print(json.dumps(metrics))  # noqa: T201
        return
    width = max(map(len, metrics))
    for name, value in metrics.items():
        if value is not None:
            text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
            print(f"{name:{width}} {text}")  # noqa: T201
    next_command = ("fill-mask", options.model, masked_sentence(store))
    measured = held_out.described([metrics["length"]])
    summary(
        f"{options.model}: {metrics['tokens']:,} held-out tokens in {measured}",
        started,
        next_command,
    )


def _trained_on(model: LoadedModel) -> str:
    """Return the store that the model was trained on."""
    if model.finetune is not None:
        raise BadArgumentsError(
            f"{model.path} is fine-tuned; evaluate it with bert-jax predict {model.path} --input"
            " FILE --score"
        )
    if model.run is None:
        raise BadArgumentsError(f"{model.path} was not trained with bert-jax; give --store DIR")
    if model.run.data.stores:
        paths = " or ".join(model.run.data.paths.values())
        raise BadArgumentsError(f"{model.path} was trained on several stores; give --store {paths}")
    store = model.run.data.store
    if not store.startswith(CLOUD) and not Path(store).exists():
        raise BadInputError(f"the store of the run, {store}, does not exist; give --store DIR")
    return store
