"""What a fine-tuning run is: the keys of ``configs/finetune/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bert_jax.config.head import HeadConfig
from bert_jax.config.run import (
    CheckpointConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    Phase,
)
from bert_jax.runtime.errors import BadInputError, at_least, share
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

    train: str = ""
    validation: str = ""
    columns: Columns = field(default_factory=Columns)
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
class FinetuneTrainConfig:
    """Length of the run and what is reported on the way.

    Args:
        epochs: Passes over the examples.
        batch_size: Rows per update, over all devices and processes.
        accumulate: Parts of a batch that run one after the other, to save memory.
        warmup: Share of the updates in which the learning rate rises; optimizer.warmup_steps, if
            given, counts instead.
        log_every: Updates between lines of metrics.jsonl.
        eval_every: Updates between evaluations; 0 = after each epoch.
        on_nonfinite: What follows a loss, gradient or state that is infinite or NaN: stop with code
            78, or rollback to the newest checkpoint, from which the offending batches are skipped.
    """

    epochs: float = 3.0
    batch_size: int = 32
    accumulate: int = 1
    warmup: float = 0.1
    log_every: int = 20
    eval_every: int = 0
    on_nonfinite: Literal["stop", "rollback"] = "stop"

    def __post_init__(self) -> None:
        """Checks the ranges."""
        at_least("train", self, 1, "batch_size log_every accumulate")
        at_least("train", self, 0, "eval_every")
        share("train", self, "warmup")
        if not self.epochs > 0:
            raise BadInputError(f"train.epochs must be above 0, not {self.epochs}")


@dataclass(frozen=True)
class FinetuneConfig:
    """A fine-tuning run.

    Args:
        run_dir: Folder of the run; the same folder again resumes it.
        init: Model to start from, at step 0; it gives network and tokenizer. A run that has begun
            needs it no more.
        seed: Decides the head's initial weights, order and dropout.
        profile: START:STOP traces the updates between these steps into run_dir/profile.
        wandb: Project of Weights & Biases that follows the run too; empty = none.
        phases: Follows from the data and train.epochs; written into config.yaml.
        task: That of the command; in a file it keeps others from using it.
    """

    run_dir: str = ""
    init: str = ""
    task: str = ""
    seed: int = 0
    profile: str = ""
    wandb: str = ""
    data: TaskDataConfig = field(default_factory=TaskDataConfig)
    options: TaskOptions = field(default_factory=TaskOptions)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-5, warmup_steps=0)
    )
    train: FinetuneTrainConfig = field(default_factory=FinetuneTrainConfig)
    phases: tuple[Phase, ...] = ()
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        """Checks what can be checked without the model.

        Raises:
            BadInputError: Something is missing.
        """
        if not self.run_dir:
            raise BadInputError("run_dir is not set; give the folder of the run, as --run_dir DIR")
        if not self.data.train:
            raise BadInputError("data.train is not set; give the examples, as --data.train FILE")
        if not 0 <= self.seed < 1 << 32:
            raise BadInputError(f"seed must be in [0, 2**32), not {self.seed}")
        if self.data.length < 8:
            raise BadInputError(f"data.length must be at least 8, not {self.data.length}")

    @property
    def steps(self) -> int:
        """Updates in all."""
        return sum(phase.steps for phase in self.phases)
