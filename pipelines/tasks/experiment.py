"""The experiment of a fine-tuning run, and the predictions of a fine-tuned network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from bert_jax.config.run import Phase
from bert_jax.nn.encoder import Params
from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.nn.tensor_names import HEAD, POOLER, ModelWeights, only
from bert_jax.runtime.console import progress, say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.experiment import Experiment
from bert_jax.training.flops import training_flops
from bert_jax.training.optimizers import optimizer, schedule
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState, new_state
from bert_jax.training.step import Steps, task_objective
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import thresholds
from pipelines.tasks.batches import TaskBatches, in_order
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.packing import PredictionLayout
from pipelines.tasks.registry import TASKS
from pipelines.tasks.task import Features, Record, Task

# In a run folder: the newest prediction for each validation example.
PREDICTIONS = "validation_predictions.jsonl"


@dataclass(frozen=True)
class Examples:
    """Labeled examples with their rows."""

    examples: Sequence[Any]
    features: Features


def planned(config: FinetuneConfig, rows: int) -> FinetuneConfig:
    """Return the config with its steps counted, for so many training rows.

    Raises:
        BadInputError: There are no rows.
    """
    if rows == 0:
        raise BadInputError(f"{config.data.train} has no labeled examples; add some")
    per_epoch = -(-rows // config.train.batch_size)
    steps = max(1, round(per_epoch * config.train.epochs))
    warmup = config.optimizer.warmup_steps or math.ceil(steps * config.train.warmup)
    every = config.train.eval_every or per_epoch
    checkpoint = config.checkpoint
    if checkpoint.keep_best:
        if not config.data.validation:
            raise BadInputError(
                "checkpoint.keep_best needs validation data; set --data.validation FILE"
            )
        checkpoint = replace(checkpoint, every=every)
    return replace(
        config,
        checkpoint=checkpoint,
        phases=(Phase(config.data.length, steps, config.train.batch_size),),
        optimizer=replace(config.optimizer, warmup_steps=warmup),
        train=replace(config.train, eval_every=every if config.data.validation else 0),
    )


def task_network(config: FinetuneConfig, outputs: int) -> TaskNetwork:
    """Return the network of a run whose task has so many outputs."""
    return TaskNetwork(config.model, config.head, outputs, TASKS[config.task].head == "tokens")


def finetuning(
    config: FinetuneConfig,
    task: Task,
    classes: list[str],
    train: Examples,
    validation: Validation,
    tokenizer: Tokenizer,
    partitioner: Partitioner,
    weights: ModelWeights | None,
    head: Params | None = None,
) -> Experiment:
    """Return the experiment of a config.

    Args:
        config: The config, from `planned`.
        task: The task.
        classes: Names of the outputs.
        train: Training examples.
        validation: Evaluates the network.
        tokenizer: The tokenizer of the rows.
        partitioner: The devices.
        weights: Weights to start from; None if the run resumes.
        head: The head to start from; None = a new one.
    """
    network = task_network(config, len(classes))
    best = task.best_metric
    lr_scales = network.lr_scales(network.param_shapes())
    rule = optimizer(config.optimizer, config.phases, lr_scales)
    more = {"tokenizer": tokenizer.digest}
    data = TaskBatches(train.features, config.train.batch_size, config.seed, more)
    if config.data.packing:
        data.pack(config.steps, len(partitioner.devices), config.train.accumulate)

    def init_fn() -> TrainState:
        return new_state(rule, network.init_params(config.seed))

    return Experiment(
        config=config,
        steps=Steps(
            task_objective(network, task.objective),
            rule,
            schedule(config.optimizer, config.phases),
            config.seed,
            lr_scales,
            config.train.accumulate,
            config.model.dtype,
        ),
        data=data,
        init_fn=init_fn,
        evaluate=validation,
        flops=lambda tokens, sequences: training_flops(config.model, tokens, sequences, 0),
        warm_start_fn=None
        if weights is None
        else partial(_warm_start, config, network, weights.params, head, partitioner),
        architecture=task.architecture if _is_plain(config) else "",
        labels=classes,
        text_columns=task.text_columns(train.examples),
        problem_type=task.problem_type,
        criterion=lambda metrics: -metrics[best] if best in metrics else None,
    )


def _is_plain(config: FinetuneConfig) -> bool:
    return config.head.kind == "linear" and config.head.features == "last"


def _warm_start(
    config: FinetuneConfig,
    network: TaskNetwork,
    weights: Params,
    head: Params | None,
    partitioner: Partitioner,
) -> TrainState:
    missing = {HEAD: head is None, POOLER: "pooler" not in weights["bert"]}
    new: Params = {}
    if names := [name for name, is_missing in missing.items() if is_missing]:
        say(f"randomly initialized: {' and '.join(names)}")
        # XLA leaves out what the model has.
        init = partial(network.init_params, config.seed)
        new = partitioner.build(lambda: only(init(), frozenset(names)))
    params = {"bert": new.get("bert", {}) | weights["bert"], "head": head or new["head"]}
    return partitioner.build(partial(new_state, optimizer(config.optimizer, config.phases)), params)


def write_records(records: Sequence[Record], path: Path) -> None:
    """Write JSON Lines; an existing file stays until the new one is complete."""
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    draft.replace(path)


Run = Callable[[Params, Any], Any]


def logits_step(network: TaskNetwork, partitioner: Partitioner) -> Run:
    """Return a compiled function: (params, arrays of a batch) -> float32 logits, no dropout."""
    definition = network.define()
    return partitioner.predict_step(
        lambda params, batch: nnx.merge(definition, params)(batch, None)
    )


def all_logits(
    run: Run,
    params: Params,
    features: Features,
    batch_size: int,
    partitioner: Partitioner,
    packing: bool = True,
) -> np.ndarray:
    """Return the float32 logits of every row.

    Args:
        run: From `logits_step`.
        params: Of the network.
        features: The rows.
        batch_size: Rows of the network per batch.
        partitioner: The devices.
        packing: Put several rows into one.
    """
    count, devices = len(features.examples), len(partitioner.devices)
    batch_size = -(-batch_size // devices) * devices
    layout = PredictionLayout.of(features.arrays, batch_size, devices) if packing else None
    with progress("predicting row", count) as show:
        if layout is not None:
            return _packed_logits(run, params, layout, partitioner, show)
        logits: list[np.ndarray] = []
        for batch in in_order(features, batch_size, partitioner.rows(batch_size)):
            logits.append(np.asarray(run(params, batch.arrays)))
            show(min(count, len(logits) * batch_size), "")
    return np.concatenate(logits)[:count]


def _packed_logits(
    run: Run,
    params: Params,
    layout: PredictionLayout,
    partitioner: Partitioner,
    show: Callable[[int, str], None],
) -> np.ndarray:
    """Return the logits of all rows in the order of the task."""
    *shape, _ = layout.arrays["segment_ids"].shape  # [R], or [R, C] of multiple choice
    sequences: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    for arrays, slots in layout.batches(partitioner.rows(layout.size)):
        used = slots >= 0
        sequences.append(slots[used])
        logits.append(np.asarray(run(params, arrays))[used])  # [sequences, …]
        show(sum(map(len, sequences)) * shape[0] // math.prod(shape), "")
    packed = np.concatenate(logits)
    ordered = np.zeros((math.prod(shape), *packed.shape[1:]), np.float32)
    ordered[np.concatenate(sequences)] = packed
    return ordered.reshape(*shape, *packed.shape[len(shape) :])


@dataclass
class Validation:
    """Evaluates a network on the validation examples, and keeps its predictions.

    Attributes:
        validation_set: The examples; None = no evaluation.
        folder: Of the run, for tuned thresholds; None = they are not saved.
        packing: Put several rows into one.
        latest: Metrics and records of the newest evaluation.
        tuned: The thresholds of the task were tuned on these examples.
    """

    validation_set: Examples | None
    task: Task
    classes: list[str]
    run: Run
    partitioner: Partitioner
    folder: Path | None = None
    packing: bool = True
    latest: tuple[dict[str, Any], list[Record]] | None = None
    tuned: bool = False

    def __call__(self, eval_step: Any, state: TrainState, phase: Phase) -> dict[str, Any]:
        """Return the metrics of a state in training."""
        del eval_step
        return self.evaluate(state.params, phase, int(state.step), ())

    def evaluate(
        self, params: Params, phase: Phase, step: int, known: tuple[float, ...]
    ) -> dict[str, Any]:
        """Return the metrics of the parameters after `step`.

        Args:
            params: The parameters.
            phase: With the size of a batch.
            step: Number of updates.
            known: Thresholds of the task; without any, they are tuned and saved.
        """
        if self.validation_set is None:
            return {}
        examples, features = self.validation_set.examples, self.validation_set.features
        logits = all_logits(
            self.run, params, features, phase.batch_size, self.partitioner, self.packing
        )
        self.task.thresholds = known or self.task.tuned_thresholds(features, logits)
        self.tuned = bool(self.task.thresholds) and not known
        if self.tuned and self.folder and jax.process_index() == 0:
            thresholds.write(self.folder, step, self.classes, self.task.thresholds)
        records = self.task.predict(examples, features, logits, self.classes)
        metrics = dict(self.task.score(examples, records, self.classes))
        self.latest = metrics, records
        return metrics
