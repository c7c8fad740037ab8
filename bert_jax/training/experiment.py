"""A run as the training loop sees it, of pre-training or of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from bert_jax.config.run import Phase, RunConfig, TrainableConfig
from bert_jax.training.batch import Batch, TrainingData
from bert_jax.training.evaluate import evaluate, mean_of_stores
from bert_jax.training.flops import training_flops
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState, WarmStart, init_state
from bert_jax.training.step import Steps

Evaluate = Callable[[Any, TrainState, Phase], dict[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """A run.

    Attributes:
        config: Of the run; ``model.vocab_size`` must be set.
        steps: One update, one evaluation.
        data: Training batches.
        init_fn: Returns the state before the first update; pure.
        evaluate: (compiled evaluation, state, phase) -> metrics of the held-out data.
        flops: (tokens, sequences) of an update -> its floating point operations.
        warm_start_fn: Returns the state of a new run that starts from a model or from the
            statistics of its text; None for random weights.
        absent: Metrics without a meaning in this run.
        architecture: Name of the network with its heads; see `tensor_names`.
        labels: Names of the classes of a task head.
        text_columns: Names of the columns of text and pair in the training data of a task.
        problem_type: Kind of these labels; see `tensor_names.ModelWeights`.
        criterion: Metrics -> the value by which the best checkpoint is chosen, lower is better.
    """

    config: TrainableConfig
    steps: Steps
    data: TrainingData
    init_fn: Callable[[], TrainState]
    evaluate: Evaluate
    flops: Callable[[int, int], float]
    warm_start_fn: WarmStart | None = None
    absent: tuple[str, ...] = ()
    architecture: str = "BertForPreTraining"
    labels: list[str] = field(default_factory=list)
    text_columns: list[str] = field(default_factory=list)
    problem_type: str = ""
    criterion: Callable[[dict[str, Any]], float | None] = lambda metrics: metrics.get("loss")


class HeldOutPart(Protocol):
    """Held-out text of one store."""

    def held_out(self, length: int, batch_size: int, rows: slice, limit: int) -> Iterator[Batch]:
        """Return the batches of held-out text, at most `limit` of a kind, unless that is 0."""


class HeldOutData(TrainingData, Protocol):
    """Training data with held-out text, of one store or of several."""

    def held_out_parts(self, length: int) -> Mapping[str, tuple[float, HeldOutPart]]:
        """Return name -> (weight, data) of what is evaluated; without a name if it is all."""


def pretraining(
    config: RunConfig,
    partitioner: Partitioner,
    data: HeldOutData,
    warm_start_fn: WarmStart | None = None,
) -> Experiment:
    """Return the pre-training run of a config (MLM and NSP)."""
    steps = Steps.of(config)

    def evaluate_held_out(eval_step: Any, state: TrainState, phase: Phase) -> dict[str, Any]:
        rows, limit = partitioner.rows(phase.batch_size), config.train.eval_batches
        results = {}
        for name, (weight, part) in data.held_out_parts(phase.length).items():
            batches = part.held_out(phase.length, phase.batch_size, rows, limit)
            results[name] = weight, evaluate(eval_step, partitioner, state.params, batches)
        metrics = results[""][1] if "" in results else mean_of_stores(results)
        return metrics | {"length": phase.length} if metrics else {}

    def flops(tokens: int, sequences: int) -> float:
        predictions = round(tokens * config.data.mlm_probability)
        return training_flops(config.model, tokens, sequences, predictions)

    return Experiment(
        config=config,
        steps=steps,
        data=data,
        init_fn=partial(init_state, config.model, steps.optimizer, config.seed),
        evaluate=evaluate_held_out,
        flops=flops,
        warm_start_fn=warm_start_fn,
        absent=("nsp_loss", "nsp_accuracy") if config.data.objective == "mlm" else (),
    )
