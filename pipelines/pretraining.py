"""Pre-train BERT on a token store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax

from bert_jax.config.run import RunConfig
from bert_jax.runtime import trackers
from bert_jax.runtime.console import say, summary
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.memory import physical_memory
from bert_jax.training.experiment import pretraining
from bert_jax.training.metadata import Meta
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import WarmStart
from bert_jax.training.watchdog import Watchdog
from pipelines.data.batches import held_out
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.batches.mixture import MixedData
from pipelines.data.store.card import CARD
from pipelines.data.store.diagnosis import pairs_warnings
from pipelines.data.store.store_cache import ensure_local
from pipelines.data.store.token_store import Store, token_dtype
from pipelines.folders import DATA_CARD, INITIAL_VALUES
from pipelines.models.warm_start import ModelStart, start_from
from pipelines.run_folder import open_run_folder

# Metrics in the summary of a complete run.
_METRICS = ("loss", "eval_loss", "eval_mlm_accuracy", "eval_nsp_accuracy", "tokens")


def pretrain(
    config: RunConfig, partitioner: Partitioner, on_step: Callable[[int], None] = lambda step: None
) -> None:
    """Train the run of `config` from its start or its newest checkpoint.

    After ``train.hang_timeout`` seconds without a step, if set, the process ends with code 70.

    Args:
        config: Of the run, ``run_dir`` and ``data.store`` or ``data.stores`` included.
        partitioner: The devices, and how the step is mapped over them.
        on_step: Called with the number of every finished step.

    Returns:
        Nothing; checkpoints, metrics and tokenizer are in ``config.run_dir``.

    Raises:
        BadInputError: Config, store and run folder do not match.
        NotFiniteError: A loss, gradient or the state became infinite or NaN; none of it is saved.
        PreemptedError: The process was asked to stop; everything is saved.

    Source: Devlin et al. 2018, section 3.1 and appendix A.2; ``run_pretraining.py`` of
    google-research/bert.
    """
    started = time.monotonic()
    kind = partitioner.devices[0].device_kind
    say(
        f"{len(partitioner.devices)} x {kind}, {jax.process_count()} process(es), mesh"
        f" {dict(partitioner.mesh.shape)}, mapping {partitioner.mapping}; jax {jax.__version__}"
    )
    trackers.require(config.wandb)
    stores = _open_stores(config)
    tokenizer = stores[0].tokenizer
    with open_run_folder(config.run_dir) as run:
        model_start = None
        if config.init:
            config, model_start = start_from(config, tokenizer, partitioner, run.newest)
        config = replace(config, model=config.model.with_vocabulary(tokenizer.vocab_size))
        mixed = bool(config.data.stores)
        data = MixedData(stores, config) if mixed else PretrainingData(stores[0], config)
        _check_plan(config, stores)
        warm_start_fn = _warm_start(config, stores, data, partitioner, run.newest, model_start)
        experiment = pretraining(config, partitioner, data, warm_start_fn)
        # Stores of older versions have no card.
        cards = [x.read_bytes() for store in stores if (x := store.folder / CARD).is_file()]
        files = {DATA_CARD: b"\n".join(cards)} if cards else {}
        with Watchdog(config.train.hang_timeout) as watchdog:

            def finish_step(step: int) -> None:
                watchdog.beat(step)
                on_step(step)

            run.train(experiment, partitioner, tokenizer, files, finish_step)
            summary(
                f"{run.path} is complete: {config.steps:,} of {config.steps:,} steps",
                started,
                ("evaluate", str(run.path), *(("--store", str(stores[0].folder)) if mixed else ())),
                **run.latest_metrics(*_METRICS),
            )


def _parts(
    config: RunConfig, stores: list[Store], data: MixedData | PretrainingData
) -> dict[str, tuple[float, Store]]:
    """Return name -> (fraction of the rows, store), at the length of the first phase."""
    fractions = {"": 1.0}
    if isinstance(data, MixedData):
        fractions = data.fractions(config.phases[0].length)
    return {name: (fractions[name], store) for name, store in zip(fractions, stores, strict=True)}


def _warm_start(
    config: RunConfig,
    stores: list[Store],
    data: MixedData | PretrainingData,
    partitioner: Partitioner,
    newest: Meta | None,
    model_start: ModelStart | None,
) -> WarmStart | None:
    """Return the start from a model or from the statistics of the stores; None for random weights.

    The digest of the statistics becomes one of `data`.
    """
    parts = partial(_parts, config, stores, data)
    if config.model.initialization != "corpus":
        return partial(model_start, parts) if model_start else None
    # Here, because importing scikit-learn takes a second.
    from pipelines.models.initial_values import corpus_start

    start = corpus_start(config, partitioner, newest, parts())
    data.digests[INITIAL_VALUES] = start.digest
    return start.state


def _open_stores(config: RunConfig) -> list[Store]:
    if not config.data.paths:
        raise BadInputError("data.store is not set; give a folder written by bert-jax prepare")
    stores = [_open_store(path, config) for path in config.data.paths.values()]
    window = sum(
        min(store.ledger.total("train", "tokens"), config.data.shuffle_tokens)
        * token_dtype(store.ledger.vocab_size).itemsize
        for store in stores
    )
    memory = physical_memory()
    if window > 0.7 * memory:
        say(
            f"the shuffle window takes {window / 2**30:.1f} of {memory / 2**30:.1f} GiB of memory,"
            " so reading will be slow; lower data.shuffle_tokens"
        )
    return stores


def _open_store(path: str, config: RunConfig) -> Store:
    store = Store(ensure_local(path))
    started = time.monotonic()
    store.verify_all()
    ledger = store.ledger
    tokens, seconds = ledger.total("train", "tokens"), time.monotonic() - started
    say(f"{store.folder}: {tokens:,} tokens of {ledger.corpus}, verified in {seconds:.1f} s")
    if config.data.objective != "mlm":
        for line in pairs_warnings(store.split("train").document_offsets):
            say(f"warning: {store.folder}: {line}")
    return store


def _check_plan(config: RunConfig, stores: list[Store]) -> None:
    """Report how held-out text is evaluated, and settings that are probably not intended."""
    documents = [store.ledger.total("heldout", "documents") for store in stores]
    if config.train.eval_every and max(documents) >= 2:
        say(f"evaluation: {held_out.described([phase.length for phase in config.phases])}")
    for count, path in zip(documents, config.data.paths.values(), strict=True):
        if config.train.eval_every and count < 2:
            say(
                f"no held-out evaluation: {path} holds out fewer than two documents; run"
                " bert-jax prepare with a larger --held-out"
            )
    if not config.phases[0].learning_rate and config.optimizer.warmup_steps >= config.steps:
        say(
            f"optimizer.warmup_steps {config.optimizer.warmup_steps:,} is not shorter than the run"
            f" ({config.steps:,} steps); lower it"
        )
    for phase in config.phases:
        if phase.learning_rate and phase.warmup_steps >= phase.steps:
            say(
                f"phases: warmup_steps {phase.warmup_steps:,} is not shorter than its phase"
                f" ({phase.steps:,} steps); lower it"
            )
