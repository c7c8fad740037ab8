"""Exact held-out losses and accuracies of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_jax.config.run import DataConfig, Phase, RunConfig
from bert_jax.nn.tensor_names import NSP, parts
from bert_jax.runtime.console import progress
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.training import evaluate as evaluation
from bert_jax.training.batch import Batch
from bert_jax.training.step import Steps
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Split, Store
from pipelines.models.open import LoadedModel

# Tokens of an example sentence, and the number of sentences to search for one.
_SHORT, _LONG, _SEARCHED = 5, 30, 1000


def evaluate(model: LoadedModel, store: Store, length: int | None = None) -> dict[str, Any]:
    """Return losses and accuracies over all held-out pairs, with baselines without context.

    Pairs and masks are those of `PretrainingData.held_out`: the same for every model with the same
    tokenizer, whatever it was trained on.

    Args:
        model: See `pipelines.models.open.open_model`.
        store: With held-out documents, made with the tokenizer of the model.
        length: Of the sequences, in tokens; default: the length of the run's last phase.

    Returns:
        Means over the held-out text: losses in nats per predicted token or pair (``mlm_loss``,
        ``nsp_loss``, and ``loss``, their sum), fractions in [0, 1] (``mlm_accuracy``,
        ``nsp_accuracy``), and ``perplexity``, e to the masked loss; None where the objective has
        no such value. Baselines: ``constant_guess_accuracy``, the accuracy of always predicting
        the most frequent target token; ``nsp_constant_guess_accuracy``, the accuracy of always
        giving the same answer to pairs; ``unigram_entropy`` (nats), the lowest loss that token
        frequencies alone can reach. Also the ``length`` of the sequences, the held-out ``tokens``
        and the ``step`` of the model.

    Raises:
        BadArgumentsError: The model does not accept sequences of that length.
        BadInputError: Model and store do not match, or nothing is held out.

    Source: ``metric_fn`` of google-research/bert's ``run_pretraining.py``, over all held-out text.
    """
    model.require_masked_language_head()
    tokenizer, trained = store.tokenizer, model.tokenizer()
    if tokenizer.digest != trained.digest:
        raise BadInputError(
            f"{store.folder} was made with another tokenizer than the model"
            f" ({tokenizer.digest[:12]}, model {trained.digest[:12]});"
            f" prepare the text again with --tokenizer {model.path}"
        )
    store.verify("heldout")
    config, length = _plan(model, length)
    partitioner = model.partitioner
    count = len(partitioner.devices)
    batch_size = -(-config.phases[-1].batch_size // count) * count
    data = PretrainingData(store, config)
    targets, labels = np.zeros(tokenizer.vocab_size, np.int64), np.zeros(2, np.int64)
    total = data.held_out_batches(length, batch_size)
    batches = _counted(data.held_out(length, batch_size), targets, labels, total)
    step = partitioner.eval_step(Steps.of(config))
    metrics = evaluation.evaluate(step, partitioner, model.pretraining_params(), batches)
    if not metrics:
        raise BadInputError(
            f"{store.folder} holds out fewer than two documents; run bert-jax prepare with a"
            " larger --held-out"
        )
    split = store.split("heldout")
    return metrics | {
        "constant_guess_accuracy": float(targets.max() / targets.sum()),
        "nsp_constant_guess_accuracy": float(labels.max() / labels.sum()) if any(labels) else None,
        "unigram_entropy": entropy(_frequencies(split, tokenizer.vocab_size)),
        "length": length,
        "tokens": split.tokens,
        "step": model.step,
    }


def _plan(model: LoadedModel, length: int | None) -> tuple[RunConfig, int]:
    """Return the config of the run, or one for foreign weights, and the sequence length."""
    most = model.network.max_positions
    if length is not None and not 5 <= length <= most:
        raise BadArgumentsError(f"--length must be from 5 to {most}, not {length}")
    if model.run is not None:
        return model.run, length or model.run.phases[-1].length
    has_nsp = NSP in parts(model.weights.params) and model.network.type_vocab_size > 1
    length = length or min(128, most)
    config = RunConfig(
        run_dir=str(model.path),
        data=DataConfig(objective="nsp" if has_nsp else "mlm"),
        model=model.network,
        phases=(Phase(length, steps=1, batch_size=32),),
    )
    return config, length


def entropy(counts: np.ndarray) -> float:
    """Return the entropy of the distribution of `counts` [V], in nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _frequencies(split: Split, vocab_size: int) -> np.ndarray:
    counts = [np.bincount(tokens, minlength=vocab_size) for _, tokens in split.shards()]
    return np.sum(counts, axis=0)


def _counted(
    batches: Iterator[Batch], targets: np.ndarray, labels: np.ndarray, total: int
) -> Iterator[Batch]:
    """Pass batches on; count in `targets` [V] and `labels` [2] how often each is correct."""
    with progress("evaluating batch", total) as show:
        for number, batch in enumerate(batches, start=1):
            used = batch.arrays["mlm_weights"] > 0
            targets += np.bincount(batch.arrays["mlm_targets"][used], minlength=len(targets))
            paired = batch.arrays["nsp_weights"] > 0
            labels += np.bincount(batch.arrays["nsp_labels"][paired], minlength=len(labels))
            yield batch
            show(number, "")


def masked_sentence(store: Store) -> str:
    """Return a short held-out sentence with one word replaced by [MASK]."""
    split, tokenizer = store.split("heldout"), store.tokenizer
    is_start = tokenizer.word_starts()
    lengths = np.diff(split.sentence_offsets)
    for number in np.flatnonzero((lengths > _SHORT) & (lengths < _LONG))[:_SEARCHED]:
        ids = split.gather(split.sentence_offsets[[number]], lengths[[number]])
        # Words of a single token: the next token starts another word.
        single = np.flatnonzero(is_start[ids[:-1]] & is_start[ids[1:]])
        words = [n for n in single if n and tokenizer.spelled(int(ids[n])).strip().isalpha()]
        if words and tokenizer.unk_id not in ids:
            position = words[len(words) // 2]
            before, after = (
                tokenizer.decode(part.tolist()) for part in (ids[:position], ids[position + 1 :])
            )
            return f"{before} [MASK] {after}"
    return "Some text with [MASK] in it."
