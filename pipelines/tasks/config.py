"""The config of a fine-tuning run: the keys of ``configs/finetune/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bert_jax.config.run import (
    LoopConfig,
    OptimizerConfig,
    TrainableConfig,
    free,
)
from bert_jax.config.task_head import HeadConfig
from bert_jax.runtime.errors import BadInputError, fraction
from pipelines.tasks.registry import TaskOptions
from pipelines.tasks.tables.bad_rows import BadRows
from pipelines.tasks.task import Columns


@dataclass(frozen=True)
class TaskDataConfig:
    """The examples.

    Args:
        train: Training examples: a file, a folder, tfds:NAME[/CONFIG]:SPLIT, or
            hf:ORG/NAME[/CONFIG]:SPLIT on the Hugging Face hub.
        validation: Validation examples; empty = no evaluation.
        columns: Names of the columns or keys; empty = the usual names.
        length: Most tokens of a row, with [CLS] and [SEP].
        packing: Put several rows into one, without attention between them, where that saves time.
            The loss is the same, except that qa has no padding to score; dropout differs.
        bad_rows: Rows of a table that have more or fewer fields than the others, or no label: stop
            at the first one, or skip and count them.
        max_bad: Largest fraction of the rows of a table that may be skipped.
    """

    train: str = free("")
    validation: str = free("")
    columns: Columns = field(default_factory=Columns, metadata={"resume": "print"})
    length: int = 128
    packing: bool = free(True)
    bad_rows: Literal["stop", "skip"] = free("stop")
    max_bad: float = free(BadRows.most)

    def __post_init__(self) -> None:
        """Check the ranges."""
        fraction("data", self, "max_bad")

    def bad_row_policy(self) -> BadRows:
        """Return what to do with bad rows."""
        return BadRows(self.bad_rows == "skip", self.max_bad)


@dataclass(frozen=True)
class FinetuneTrainConfig(LoopConfig):
    """Length of a fine-tuning run, its batches and reports.

    Args:
        epochs: Number of times that every example is seen.
        warmup: Fraction of the updates in which the learning rate rises; optimizer.warmup_steps, if
            given, counts instead.
    """

    batch_size: int = free(32, "silent")
    log_every: int = free(20)
    eval_every: int = free(0)
    epochs: float = free(3.0)
    warmup: float = free(0.1)

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        fraction("train", self, "warmup")
        if not self.epochs > 0:
            raise BadInputError(f"train.epochs must be above 0, not {self.epochs}")


@dataclass(frozen=True)
class FinetuneConfig(TrainableConfig):
    """A fine-tuning run. A run with checkpoints does not need ``init``.

    Args:
        task: The task of the command; a config file with a task is rejected by other tasks.
    """

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-5, warmup_steps=0)
    )
    train: FinetuneTrainConfig = field(default_factory=FinetuneTrainConfig)
    task: str = ""
    data: TaskDataConfig = field(default_factory=TaskDataConfig)
    options: TaskOptions = field(default_factory=TaskOptions, metadata={"resume": "print"})
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        super().__post_init__()
        if not self.data.train:
            raise BadInputError("data.train is not set; add --data.train FILE")
        if self.data.length < 8:
            raise BadInputError(f"data.length must be at least 8, not {self.data.length}")
