"""``bert-jax evaluate``: exact held-out losses and accuracies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.config.run import DataConfig, Phase, RunConfig
from bert_jax.nn.tensor_names import NSP, parts
from bert_jax.runtime import distributed
from bert_jax.runtime.console import progress, summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import CLOUD, at
from bert_jax.training.batch import Batch
from bert_jax.training.evaluate import evaluate
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.step import Steps
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.store_cache import ensure_local
from pipelines.data.store.token_store import Split, Store
from pipelines.models.open import MODEL_HELP, LoadedModel, open_model
from pipelines.settings import command_parser, parse

# Tokens of a sentence that is shown, and how many sentences are looked at for one.
_SHORT, _LONG, _LOOKED_AT = 5, 30, 1000


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("evaluate", "Measures a model on all held-out text of a store.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--store", help="another store than the one it was trained on")
    parser.add_argument(
        "--length", type=int, help="of the sequences (default: of the run's last phase, or 128)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    started = time.monotonic()
    distributed.enable_compilation_cache()
    partitioner = Partitioner(distributed.devices())
    model = open_model(at(options.model), partitioner)
    store = Store(_store(options.store, model))
    found = measure(model, store, partitioner, options.length)
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return
    width = max(map(len, found))
    for name, value in found.items():
        if value is None:
            continue
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        print(f"{name:{width}} {shown}")  # noqa: T201
    then = ("fill-mask", options.model, riddle(store))
    summary(f"{options.model}: {found['tokens']:,} held-out tokens", started, then)


def riddle(store: Store) -> str:
    """A short held-out sentence with a word behind [MASK], so in the language of the model."""
    split, tokenizer = store.split("heldout"), store.tokenizer
    begins = tokenizer.word_starts()
    lengths = np.diff(split.sentence_offsets)
    for number in np.flatnonzero((lengths > _SHORT) & (lengths < _LONG))[:_LOOKED_AT]:
        ids = split.gather(split.sentence_offsets[[number]], lengths[[number]])
        # Words of one token that reads as one; the next token begins another.
        alone = np.flatnonzero(begins[ids[:-1]] & begins[ids[1:]])
        whole = [n for n in alone if n and tokenizer.spelled(int(ids[n])).strip().isalpha()]
        if whole and tokenizer.unk_id not in ids:
            place = whole[len(whole) // 2]
            before, after = (
                tokenizer.decode(part.tolist()) for part in (ids[:place], ids[place + 1 :])
            )
            return f"{before} [MASK] {after}"
    return "Some text with [MASK] in it."


def _store(given: str | None, model: LoadedModel) -> Path:
    if given:
        return ensure_local(given)
    if model.run is None:
        if model.finetune is not None:
            raise BadArgumentsError(
                f"{model.path} is fine-tuned; bert-jax predict {model.path} --input FILE --score"
                " measures it"
            )
        raise BadArgumentsError(f"{model.path} was not trained here; give --store DIR")
    store = model.run.data.store
    if not store.startswith(CLOUD) and not Path(store).exists():
        raise BadInputError(f"the store of the run, {store}, is not here; say where: --store DIR")
    return ensure_local(store)


def measure(
    model: LoadedModel, store: Store, partitioner: Partitioner, length: int | None = None
) -> dict[str, Any]:
    """Losses and accuracies over every held-out pair, beside what knows no context.

    Args:
        model: See `pipelines.models.open.open_model`.
        store: With held-out documents, made with the tokenizer of the model.
        partitioner: The devices to compute on.
        length: Of the sequences, in tokens; without it that of the run's last phase.

    Returns:
        Means over the held-out text: losses in nats per predicted token or pair (``mlm_loss``,
        ``nsp_loss``, and ``loss``, their sum), shares in [0, 1] (``mlm_accuracy``,
        ``nsp_accuracy``), and ``perplexity``, e to the masked loss; what the objective has not is
        None. Beside them ``constant_guess_accuracy``, that of always naming the most frequent of
        the tokens to be predicted; ``nsp_constant_guess_accuracy``, that of always giving the same
        answer to pairs; ``unigram_entropy`` (nats), the least loss that token frequencies alone
        can reach; ``tokens`` held out; and the ``step`` of the model.

    Raises:
        BadArgumentsError: The model takes no sequences of that length.
        BadInputError: Model and store do not fit, or nothing is held out.

    Source: ``metric_fn`` of google-research/bert's ``run_pretraining.py``, over all held-out text.
    """
    model.require_masked_language_head()
    tokenizer, own = store.tokenizer, model.tokenizer()
    if tokenizer.digest != own.digest:
        raise BadInputError(
            f"{store.folder} was made with another tokenizer than the model"
            f" ({tokenizer.digest[:12]}, model {own.digest[:12]});"
            f" prepare the text again with --tokenizer {model.path}"
        )
    store.verify("heldout")
    config, length = _plan(model, length)
    count = len(partitioner.devices)
    batch_size = -(-config.phases[-1].batch_size // count) * count
    data = PretrainingData(store, config)
    targets, labels = np.zeros(tokenizer.vocab_size, np.int64), np.zeros(2, np.int64)
    total = data.heldout_batches(length, batch_size)
    batches = _counted(data.held_out(length, batch_size), targets, labels, total)
    step = partitioner.eval_step(Steps.of(config))
    found = evaluate(step, partitioner, model.pretraining_params(partitioner), batches)
    if not found:
        raise BadInputError(
            f"{store.folder} holds out fewer than two documents; prepare with a larger --held-out"
        )
    split = store.split("heldout")
    return found | {
        "constant_guess_accuracy": float(targets.max() / targets.sum()),
        "nsp_constant_guess_accuracy": float(labels.max() / labels.sum()) if any(labels) else None,
        "unigram_entropy": entropy(_frequencies(split, tokenizer.vocab_size)),
        "tokens": split.tokens,
        "step": model.step,
    }


def _plan(model: LoadedModel, length: int | None) -> tuple[RunConfig, int]:
    """How batches are made: as in training; weights from elsewhere take BERT's defaults.

    Raises:
        BadArgumentsError: The model takes no sequences of that length.
    """
    most = model.network.max_positions
    if length is not None and not 5 <= length <= most:
        raise BadArgumentsError(f"--length must be from 5 to {most}, not {length}")
    if model.run is not None:
        return model.run, length or model.run.phases[-1].length
    # Without a next sentence head there is nothing to ask of pairs.
    pairs = NSP in parts(model.weights.params)
    length = length or min(128, most)
    config = RunConfig(
        run_dir=str(model.path),
        data=DataConfig(objective="nsp" if pairs else "mlm"),
        model=model.network,
        phases=(Phase(length, steps=1, batch_size=32),),
    )
    return config, length


def entropy(counts: np.ndarray) -> float:
    """Of the distribution that `counts` [V] describes, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _frequencies(split: Split, vocab_size: int) -> np.ndarray:
    counts = [np.bincount(tokens, minlength=vocab_size) for _, tokens in split.shards()]
    return np.sum(counts, axis=0)


def _counted(
    batches: Iterator[Batch], targets: np.ndarray, labels: np.ndarray, total: int
) -> Iterator[Batch]:
    """Passes batches on; adds up how often each token of `targets` [V] and label [2] is right."""
    with progress("evaluating batch", total) as show:
        for number, batch in enumerate(batches, start=1):
            used = batch.arrays["mlm_weights"] > 0
            targets += np.bincount(batch.arrays["mlm_targets"][used], minlength=len(targets))
            asked = batch.arrays["nsp_weights"] > 0
            labels += np.bincount(batch.arrays["nsp_labels"][asked], minlength=len(labels))
            yield batch
            show(number, "")
