"""``bert-jax pretrain``: train BERT on a token store; run it again to resume."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from bert_jax.runtime import distributed
from bert_jax.runtime.console import be_quiet
from bert_jax.training.partitioner import Partitioner
from pipelines.pretraining import pretrain
from pipelines.settings import run_config


def main(argv: Sequence[str]) -> None:
    config = run_config(argv)
    distributed.enable_compilation_cache()
    partitioner = Partitioner.of(config.parallel, distributed.join())
    if jax.process_index():
        be_quiet()
    pretrain(config, partitioner)
