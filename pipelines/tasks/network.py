"""The network of a fine-tuning run."""

from __future__ import annotations

from bert_jax.nn.task_heads import TaskNetwork
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS


def task_network(config: FinetuneConfig, outputs: int) -> TaskNetwork:
    """Return the network of a run whose task has so many outputs."""
    return TaskNetwork(config.model, config.head, outputs, TASKS[config.task].head == "tokens")
