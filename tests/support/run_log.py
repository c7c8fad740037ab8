"""The metrics log of a run, with its trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from bert_jax.config.run import RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.experiment import pretraining
from bert_jax.training.metrics import MetricsLog
from bert_jax.training.partitioner import Partitioner


def open_log(config: RunConfig, step: int = 0) -> MetricsLog:
    run_dir = Path(config.run_dir)
    run_dir.mkdir(exist_ok=True)
    experiment = pretraining(config, Partitioner(devices()[:1]), cast(Any, None))
    return MetricsLog(run_dir, experiment, step, 0, 0.0)
