"""What a fine-tuning run is: the keys of ``configs/finetune/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field

from bert_jax.config.head import HeadConfig
from bert_jax.config.run import (
    LoopConfig,
    OptimizerConfig,
    TrainableConfig,
    free,
)
from bert_jax.runtime.errors import BadInputError, share
from pipelines.tasks.task import Columns


@dataclass(frozen=True)
class TaskDataConfig:
    """Where the examples are.

    Args:
        train: Examples to learn from: a file, or tfds:NAME[/CONFIG]:SPLIT.
        validation: Examples to measure on; empty = no evaluation.
        columns: Names of the columns or keys; empty = the usual ones.
        length: Most tokens of a row, [CLS] and [SEP] included.
    """

    train: str = free("")
    validation: str = free("")
    columns: Columns = field(default_factory=Columns, metadata={"resume": "print"})
    length: int = 128


@dataclass(frozen=True)
class TaskOptions:
    """What only one task knows.

    Args:
        document_context: tagging: rows are filled up with neighbouring sentences of the document.
        stride: qa: tokens from one window over a long context to the next.
        question_length: qa: longer questions are cut to so many tokens.
        n_best: qa: how many starts, ends and answers are looked at.
        answer_length: qa: most tokens of an answer.
        null_threshold: qa: null odds above which there is no answer (SQuAD 2.0).
        sentences: summarization: sentences of a summary.
        language: summarization: ISO 639 code, for splitting documents into sentences.
    """

    document_context: bool = False
    stride: int = 128
    question_length: int = 64
    n_best: int = 20
    answer_length: int = 30
    null_threshold: float = 0.0
    sentences: int = 3
    language: str = "en"


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
        share("train", self, "warmup")
        if not self.epochs > 0:
            raise BadInputError(f"train.epochs must be above 0, not {self.epochs}")


@dataclass(frozen=True)
class FinetuneConfig(TrainableConfig):
    """A fine-tuning run. A run that has begun needs ``init`` no more.

    Args:
        task: That of the command; in a file it keeps others from using it.
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
            raise BadInputError("data.train is not set; give the examples, as --data.train FILE")
        if self.data.length < 8:
            raise BadInputError(f"data.length must be at least 8, not {self.data.length}")
