"""``bert-jax pretrain``: train BERT on a token store; the same command again resumes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax

from bert_jax.config.run import RunConfig
from bert_jax.runtime import distributed, trackers
from bert_jax.runtime.console import be_quiet, say, summary
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import at
from bert_jax.training.experiment import pretraining
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.watchdog import Watchdog
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.card import CARD
from pipelines.data.store.store_cache import ensure_local
from pipelines.data.store.token_store import Store, token_dtype
from pipelines.folders import DATA_CARD
from pipelines.models.initial import start_from
from pipelines.run_folder import metrics_table, taken, train
from pipelines.settings import run_config

# What is told of a run that is complete.
_FIGURES = ("loss", "eval_loss", "eval_mlm_accuracy", "eval_nsp_accuracy", "tokens")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    config = run_config(argv)
    distributed.enable_compilation_cache()
    partitioner = Partitioner.of(config.parallel, distributed.join())
    if jax.process_index():
        be_quiet()
    pretrain(config, partitioner)


def pretrain(
    config: RunConfig, partitioner: Partitioner, on_step: Callable[[int], None] = lambda step: None
) -> None:
    """Trains, or goes on training, the run that `config` describes.

    After ``train.hang_timeout`` seconds without a step, if set, the process ends with code 70.

    Args:
        config: Of the run, ``run_dir`` and ``data.store`` included.
        partitioner: The devices, and how the step is mapped over them.
        on_step: Hears of the number of every step that was done.

    Returns:
        Nothing; checkpoints, metrics and tokenizer are in ``config.run_dir``.

    Raises:
        BadInputError: Config, store and run folder do not fit each other.
        NotFiniteError: A loss, gradient or the state became infinite or NaN; none of it is saved.
        PreemptedError: The process was told to end; everything is saved.

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
    run_dir, store = at(config.run_dir), _open(config)
    warm_start_fn = None
    if config.init:
        config, warm_start_fn = start_from(config, store.tokenizer, partitioner)
    config = replace(config, model=config.model.with_vocabulary(store.tokenizer.vocab_size))
    data = PretrainingData(store, config)
    if config.train.eval_every and not data.can_evaluate:
        say(f"no held-out evaluation: {store.folder} holds out fewer than two documents")
    if not config.phases[0].learning_rate and config.optimizer.warmup_steps >= config.steps:
        say(f"optimizer.warmup_steps {config.optimizer.warmup_steps:,} is longer than the run")
    for phase in config.phases:
        if phase.learning_rate and phase.warmup_steps >= phase.steps:
            say(f"phases: warmup_steps {phase.warmup_steps:,} is longer than its phase")
    with taken(run_dir), Watchdog(config.train.hang_timeout) as watchdog:

        def done(step: int) -> None:
            watchdog.beat(step)
            on_step(step)

        experiment = pretraining(config, partitioner, data, warm_start_fn)
        card = store.folder / CARD  # which a store of an older version lacks
        files = {DATA_CARD: card.read_bytes()} if card.is_file() else {}
        train(experiment, partitioner, store.tokenizer, files, done)
        said = f"{run_dir} is complete: {config.steps:,} of {config.steps:,} steps"
        summary(said, started, ("evaluate", str(run_dir)), **metrics_table(run_dir, *_FIGURES))


def _open(config: RunConfig) -> Store:
    if not config.data.store:
        raise BadInputError("data.store is not set; give a folder made by bert-jax prepare")
    store = Store(ensure_local(config.data.store))
    started = time.monotonic()
    store.verify_all()
    ledger = store.ledger
    tokens, seconds = ledger.total("train", "tokens"), time.monotonic() - started
    say(f"{store.folder}: {tokens:,} tokens of {ledger.corpus}, verified in {seconds:.1f} s")
    window = min(tokens, config.data.shuffle_tokens) * token_dtype(ledger.vocab_size).itemsize
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if window > 0.7 * memory:
        say(
            f"the tokens that are shuffled together take {window / 2**30:.1f} of the"
            f" {memory / 2**30:.1f} GiB of memory: reading will be slow; lower data.shuffle_tokens"
        )
    return store
