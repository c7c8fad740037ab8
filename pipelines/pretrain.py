"""``bert-jax pretrain``: train BERT on a token store; the same command again resumes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import jax

from bert_jax import parallel
from bert_jax.checkpoint import FOLDER
from bert_jax.config import RunConfig
from bert_jax.console import be_quiet, say
from bert_jax.errors import BadInputError
from bert_jax.train import Trainer
from pipelines import cli
from pipelines.data.card import CARD
from pipelines.data.loader import PretrainingData
from pipelines.data.store import Store, token_dtype
from pipelines.data.tokenizer import load
from pipelines.folders import DATA_CARD, RUN_CONFIG, RUN_TOKENIZER, exclusive, own
from pipelines.initial import start_from
from pipelines.settings import run_config, to_yaml


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    config = run_config(argv)
    parallel.enable_compilation_cache()
    parallel.initialize()
    layout = parallel.Layout(parallel.devices(), config.parallel.mapping)
    if jax.process_index():
        be_quiet()
    pretrain(config, layout)


def pretrain(config: RunConfig, layout: parallel.Layout) -> None:
    """Trains, or goes on training, the run that `config` describes.

    Raises:
        BadInputError: Config, store and run folder do not fit each other.
        PreemptedError: The process was told to end; everything is saved.
    """
    kind = layout.devices[0].device_kind
    say(
        f"{len(layout.devices)} x {kind}, {jax.process_count()} process(es), mesh"
        f" {dict(layout.mesh.shape)}, mapping {layout.mapping}; jax {jax.__version__}"
    )
    store = _open(config)
    begin = None
    if config.init:
        config, begin = start_from(config, store.tokenizer, layout)
    config = replace(config, model=config.model.with_vocabulary(store.tokenizer.vocab_size))
    data = PretrainingData(store, config)
    if config.train.eval_every and not data.can_evaluate:
        say(f"no held-out evaluation: {store.folder} holds out fewer than two documents")
    if config.optimizer.warmup_steps >= config.steps:
        say(f"optimizer.warmup_steps {config.optimizer.warmup_steps:,} is longer than the run")
    run_dir = Path(config.run_dir)
    own(run_dir, "run_dir", (RUN_CONFIG, FOLDER))
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"run_dir {run_dir} cannot be made: {error.strerror}") from None
    with exclusive(run_dir) if jax.process_index() == 0 else nullcontext():
        trainer = Trainer(config, layout, data, begin)
        try:
            if jax.process_index() == 0:
                _keep_at_hand(run_dir, config, store)
            trainer.run()
        finally:
            trainer.close()
    say(f"{run_dir} is complete: {trainer.step:,} of {config.steps:,} steps")


def _keep_at_hand(run_dir: Path, config: RunConfig, store: Store) -> None:
    """Writes what is needed to use the run; whole files only, whenever the process is killed."""
    draft = run_dir / f"{RUN_CONFIG}.tmp"
    draft.write_text(to_yaml(config), "utf-8")
    draft.replace(run_dir / RUN_CONFIG)
    with suppress(FileNotFoundError):  # of a store that was made by an older version
        shutil.copyfile(store.folder / CARD, run_dir / DATA_CARD)
    folder = run_dir / RUN_TOKENIZER
    try:
        same = load(folder).digest == store.tokenizer.digest
    except BadInputError:
        same = False
    if not same:
        draft = run_dir / f"{RUN_TOKENIZER}.tmp"
        store.tokenizer.save(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)


def _open(config: RunConfig) -> Store:
    if not config.data.store:
        raise BadInputError("data.store is not set; give a folder made by bert-jax prepare")
    store = Store(Path(config.data.store))
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


if __name__ == "__main__":
    cli.run(main)
