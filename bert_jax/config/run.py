"""The config of a run, as frozen dataclasses: the keys of ``configs/*.yaml``.

Nothing here imports JAX, so that ``--help`` and errors in a config appear immediately.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bert_jax.config.model import ModelConfig
from bert_jax.config.phases import Phase, planned
from bert_jax.config.resume_policies import free
from bert_jax.config.stores import MixedStore, check_mixture
from bert_jax.runtime.errors import BadInputError, at_least, fraction


def as_dict(config: Any) -> dict[str, Any]:
    """Convert a config with phases to nested dicts and lists, as it is saved."""
    values = asdict(config) | {"phases": [asdict(phase) for phase in config.phases]}
    if stores := values["data"].pop("stores", ()):  # absent without a mixture
        values["data"]["stores"] = list(stores)
    return values


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Convert a nested dict to {"a.b": value}; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@dataclass(frozen=True)
class DataConfig:
    """The training text, and the masked examples made from it.

    Args:
        store: Folder written by ``bert-jax prepare``; gs://… is copied to BERT_JAX_STORES first.
        stores: Stores to mix, instead of store, as a list of {path, fraction} or {path, epochs}.
        mlm_probability: Fraction of the tokens of a sequence that is predicted.
        max_predictions: Maximum predictions per sequence; 0 = ceil(mlm_probability x length).
        short_seq_prob: Probability that a document has a shorter target length in an epoch.
        objective: Second objective besides masked tokens: nsp (does B follow A?), sop (are A and B
            swapped?) or mlm (none; one segment of whole sentences).
        whole_words: Mask all tokens of a word or none.
        packing: Put several sequences into one row, without attention between them.
        shuffle_tokens: Shuffle examples within spans of the store of about this many tokens. A span
            takes 2 or 4 bytes per token and should fit in memory; most stores are one span.
    """

    store: str = free("", "silent")
    stores: tuple[MixedStore, ...] = free((), "silent")
    mlm_probability: float = 0.15
    max_predictions: int = 0
    short_seq_prob: float = 0.1
    objective: Literal["nsp", "sop", "mlm"] = "nsp"
    whole_words: bool = False
    packing: bool = False
    shuffle_tokens: int = 4_000_000_000

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_mixture(self.store, self.stores)
        fraction("data", self, "mlm_probability short_seq_prob")
        if self.mlm_probability == 0:
            raise BadInputError("data.mlm_probability must be above 0; the usual value is 0.15")
        at_least("data", self, 0, "max_predictions")
        at_least("data", self, 1, "shuffle_tokens")

    @property
    def paths(self) -> dict[str, str]:
        """The key and the path of every store."""
        if not self.stores:
            return {"data.store": self.store} if self.store else {}
        return {f"data.stores[{n}].path": entry.path for n, entry in enumerate(self.stores)}

    def predictions(self, length: int) -> int:
        """Return the prediction slots (P) of a sequence of `length` tokens."""
        return min(self.max_predictions or math.ceil(self.mlm_probability * length), length)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer.

    Args:
        recipe: adamw, bert2018 (as in google-research/bert: no bias correction, and a jump of the
            learning rate at the end of the warm-up) or lamb (for very large batches).
        learning_rate: Peak learning rate.
        warmup_steps: Updates over which the learning rate rises linearly from 0.
        weight_decay: Decoupled weight decay; not applied to biases and LayerNorm.
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        epsilon: Added to the square root of the second moment.
        clip_norm: Maximum global norm of the gradient.
        first_moment: Dtype of the first moment; bfloat16 saves 2 bytes per parameter.
    """

    recipe: Literal["adamw", "bert2018", "lamb"] = "adamw"
    learning_rate: float = free(1e-4)
    warmup_steps: int = free(10_000)
    weight_decay: float = free(0.01)
    beta1: float = free(0.9)
    beta2: float = free(0.999)
    epsilon: float = free(1e-6)
    clip_norm: float = free(1.0)
    first_moment: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least("optimizer", self, 0, "learning_rate warmup_steps weight_decay epsilon")
        fraction("optimizer", self, "beta1 beta2")
        if not self.clip_norm > 0:
            raise BadInputError(f"optimizer.clip_norm must be above 0, not {self.clip_norm}")


@dataclass(frozen=True)
class LoopConfig:
    """Batches, logging and evaluation of a training loop.

    Args:
        batch_size: Rows per update, over all devices and processes.
        accumulate: Gradient accumulation: split a batch into this many parts to save memory.
        log_every: Updates between lines of metrics.jsonl.
        eval_every: Updates between evaluations; 0 = never, in fine-tuning after each epoch.
        on_nonfinite: Reaction to an infinite or NaN loss, gradient or state: stop (exit code 78) or
            rollback (continue from the newest checkpoint and skip the offending batches).
    """

    batch_size: int = free(256, "silent")
    accumulate: int = free(1)
    log_every: int = free(100)
    eval_every: int = free(1000)
    on_nonfinite: Literal["stop", "rollback"] = free("stop")

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least("train", self, 1, "batch_size log_every accumulate")
        at_least("train", self, 0, "eval_every")


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """Length of pre-training, batches, logging and evaluation.

    Args:
        steps: Total number of updates; truncates or extends the phases; 0 = their sum.
        eval_batches: Batches per held-out evaluation; 0 = all.
        hang_timeout: Seconds without a step (three times as many for the first) after which the
            process exits with code 70; 0 = never.
    """

    steps: int = free(0, "silent")
    eval_batches: int = free(50)
    hang_timeout: int = free(0)

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        at_least("train", self, 0, "steps eval_batches hang_timeout")


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints.

    Args:
        every: Updates between checkpoints.
        keep: Number of newest checkpoints to keep.
        keep_best: Also keep the checkpoint with the lowest held-out loss.
    """

    every: int = 1000
    keep: int = 3
    keep_best: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least("checkpoint", self, 1, "every keep")


@dataclass(frozen=True)
class ParallelConfig:
    """Data parallelism over devices.

    Args:
        mapping: jit (over a shard_map, any number of hosts) or pmap (one host).
        shard_state: Shard parameters and optimizer state: less memory, faster on many devices.
    """

    mapping: Literal["jit", "pmap"] = "jit"
    shard_state: bool = False


@dataclass(frozen=True)
class TrainableConfig:
    """A run of the training loop: the keys that pre-training and fine-tuning share.

    Args:
        run_dir: Folder of the run, local or gs://…; an existing run resumes.
        init: Model whose network and weights the run starts from; empty = random weights.
        seed: Seed of initial weights, data order, masks and dropout.
        profile: START:STOP traces the updates between these steps into run_dir/profile.
        wandb: Weights & Biases project that also receives the metrics; empty = none.
        phases: Phases of the run, in order, as a list of {length, steps, batch_size}.
    """

    run_dir: str = free("", "silent")
    init: str = free("")
    seed: int = 0
    profile: str = free("", "silent")
    wandb: str = free("", "silent")
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    phases: tuple[Phase, ...] = free((), "silent")
    checkpoint: CheckpointConfig = field(
        default_factory=CheckpointConfig, metadata={"resume": "print"}
    )
    parallel: ParallelConfig = field(default_factory=ParallelConfig, metadata={"resume": "print"})

    def __post_init__(self) -> None:
        """Check the keys that need no model."""
        if not 0 <= self.seed < 1 << 32:
            raise BadInputError(f"seed must be in [0, 2**32), not {self.seed}")
        if not self.run_dir:
            raise BadInputError("run_dir is not set; add --run-dir DIR")
        if self.init and self.model.initialization == "corpus":
            raise BadInputError(
                f"model.initialization corpus is for new networks, but init is {self.init}; remove"
                " one of them"
            )

    @property
    def steps(self) -> int:
        """Total number of updates."""
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True)
class RunConfig(TrainableConfig):
    """A pre-training run.

    Args:
        new_tokens: First values of the tokens that bert-jax extend-tokenizer added to the model
            given as init: pieces (the mean of their former pieces) or corpus (predicted from their
            contexts in the store).
    """

    new_tokens: Literal["pieces", "corpus"] = "pieces"
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    phases: tuple[Phase, ...] = free((Phase(),), "silent")

    def __post_init__(self) -> None:
        """Resolve sizes, and steps and batch size of every phase."""
        super().__post_init__()
        if self.new_tokens == "corpus" and not self.init:
            raise BadInputError(
                "new_tokens corpus is for runs that start from a model; set init, or remove"
                " new_tokens"
            )
        phases = planned(self.phases, self.train.steps, self.train.batch_size)
        object.__setattr__(self, "phases", phases)
        if not self.init or self.model.is_stated:
            object.__setattr__(self, "model", self.model.resolved())
        if self.model.type_vocab_size == 1 and self.data.objective != "mlm":
            raise BadInputError(
                f"data.objective is {self.data.objective}, which needs pairs, but type_vocab_size"
                " of the model is 1: it reads single texts only; set data.objective to mlm"
            )
        every, eval_every = self.checkpoint.every, self.train.eval_every
        if self.checkpoint.keep_best and (not eval_every or every % eval_every):
            raise BadInputError(
                f"checkpoint.keep_best needs an evaluation at every checkpoint; set"
                f" train.eval_every, now {eval_every}, to a divisor of checkpoint.every {every}"
            )
        for phase in self.phases:
            if self.model.is_stated and phase.length > self.model.max_positions:
                raise BadInputError(
                    f"phases: length {phase.length} exceeds"
                    f" model.max_positions {self.model.max_positions}; change one of them"
                )
