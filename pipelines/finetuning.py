"""Fine-tune a model on a task."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from bert_jax.nn.encoder import Params
from bert_jax.nn.tensor_names import ModelWeights
from bert_jax.runtime import trackers
from bert_jax.runtime.console import say, summary
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import at
from bert_jax.training.partitioner import Partitioner
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.folders import RUN_RESULTS
from pipelines.models.initial_head import initial_head
from pipelines.models.open import network_of, open_model
from pipelines.run_folder import RunFolder, open_run_folder
from pipelines.tasks import reporting, thresholds
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.experiment import (
    PREDICTIONS,
    Examples,
    Validation,
    finetuning,
    logits_step,
    planned,
    task_network,
    write_records,
)
from pipelines.tasks.registry import open_task
from pipelines.tasks.task import Task


def finetune(config: FinetuneConfig, partitioner: Partitioner) -> dict[str, Any]:
    """Train the run of `config` from its start or its newest checkpoint.

    Args:
        config: Of the run, ``task`` and ``run_dir`` included.
        partitioner: The devices, and how the step is mapped over them.

    Returns:
        The metrics of the last evaluation by name; empty without validation data.

    Raises:
        BadInputError: Config, data, model and run folder do not match.
        PreemptedError: The process was asked to stop; everything is saved.

    Source: Devlin et al. 2018, section 4 and appendix A.3.
    """
    started = time.monotonic()
    trackers.require(config.wandb)
    task = open_task(config.task, config.options, config.data.bad_row_policy())
    examples = task.read(config.data.train, config.data.columns, labeled=True)
    source = config.data.validation
    validation_examples = task.read(source, config.data.columns, labeled=True) if source else []
    task.check_texts(validation_examples, task.text_columns(examples))
    with open_run_folder(config.run_dir) as run:
        config, classes, tokenizer, weights, head = _start(config, task, examples, partitioner, run)
        parts = (examples, validation_examples)
        examples, validation_examples = (list(task.matched(part, classes)) for part in parts)
        length = _row_length(config)
        sets = [
            Examples(part, task.features(part, tokenizer, length, classes))
            for part in (examples, validation_examples)
            if part
        ]
        tokenizer.special_words.report()
        for part in sets:
            part.features.require_token_types(config.model)
        has_labels = examples and sets[0].features.arrays["weights"].any()
        config = planned(config, len(sets[0].features.examples) if has_labels else 0)
        say(f"{len(examples):,} training and {len(validation_examples):,} validation examples")
        step = logits_step(task_network(config, len(classes)), partitioner)
        validated, packing = (sets[1] if validation_examples else None), config.data.packing
        validation = Validation(validated, task, classes, step, partitioner, run.path, packing)
        experiment = finetuning(
            config, task, classes, sets[0], validation, tokenizer, partitioner, weights, head
        )
        files = {reporting.DATA: _data_facts(task, sets, length)}
        params = run.train(experiment, partitioner, tokenizer, files)
        if validation.latest is None:  # the run was already complete
            known = thresholds.read(run.path, config.steps, classes)
            validation.evaluate(params, config.phases[-1], config.steps, known)
        metrics = _write_results(run.path, config, validation_examples, validation)
        summary(
            f"{run.path} is complete: {config.steps:,} of {config.steps:,} steps",
            started,
            ("predict", str(run.path), "--input", "FILE", "--output", "predictions.jsonl"),
            **run.latest_metrics("loss"),
            **{name: f"{x:.4g}" for name, x in metrics.items() if isinstance(x, float)},
            results=run.path / RUN_RESULTS if metrics else "",
        )
        return metrics


def finetune_seeds(config: FinetuneConfig, partitioner: Partitioner, seeds: int) -> None:
    """Train `seeds` runs in ``run_dir/seed-…``; report mean and deviation of their metrics."""
    run_dir = at(config.run_dir)
    runs = [
        finetune(replace(config, seed=seed, run_dir=str(run_dir / f"seed-{seed}")), partitioner)
        for seed in range(config.seed, config.seed + seeds)
    ]
    table = {}
    for name in [name for name, value in runs[0].items() if isinstance(value, float)]:
        values = [metrics[name] for metrics in runs]
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        table[name] = {"mean": mean, "sd": deviation, "values": values}
        say(f"{name}: {mean:.4f} ± {deviation:.4f} over {len(values)} seeds")
    if jax.process_index() == 0:
        (run_dir / RUN_RESULTS).write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def _start(
    config: FinetuneConfig,
    task: Task,
    examples: Sequence[Any],
    partitioner: Partitioner,
    run: RunFolder,
) -> tuple[FinetuneConfig, list[str], Tokenizer, ModelWeights | None, Params | None]:
    """Take network, classes and tokenizer from the run if it has started, else from ``init``."""
    weights = head = None
    if (meta := run.newest) is not None:
        if (previous := meta.config.get("task") or "pre-training") != config.task:
            raise BadInputError(
                f"{run.path} is a run of {previous}, not of {config.task}; choose another run_dir"
            )
        task.check_texts(examples, meta.text_columns)
        network, classes = network_of(meta, run.path), meta.labels
        tokenizer = tokenizers.load(run.path)
        config = replace(config, init=config.init or meta.config["init"])
    elif not config.init:
        raise BadInputError("init is not set; give the model to start from: --init MODEL")
    else:
        model = open_model(config.init, partitioner)
        network, tokenizer = model.network, model.tokenizer()
        say(f"weights from {model.described}")
        classes, head = initial_head(model, config, task, task.classes(examples))
        weights = model.weights
    return (
        replace(config, model=config.model.started_from(network)),
        list(classes),
        tokenizer,
        weights,
        head,
    )


def _row_length(config: FinetuneConfig) -> int:
    length = min(config.data.length, config.model.max_positions)
    if length < config.data.length:
        say(f"data.length {config.data.length} is reduced to the {length} positions of the model")
    return length


def _data_facts(task: Task, sets: Sequence[Examples], length: int) -> bytes:
    """Return the facts about the data for the report, as JSON."""
    facts = {
        name: reporting.facts(task, part.examples, part.features, length)
        for name, part in zip(("train", "validation"), sets, strict=False)
    }
    return json.dumps({"length": length, **facts}).encode()


def _write_results(
    run_dir: Path, config: FinetuneConfig, examples: Sequence[Any], validation: Validation
) -> dict[str, Any]:
    """Write the last evaluation, with the tables for the report; return its metrics."""
    if validation.latest is None:
        return {}
    metrics, records = validation.latest
    results: dict[str, Any] = {"step": config.steps, **metrics}
    results |= validation.task.details(examples, records, validation.classes)
    if validation.task.thresholds:
        results["thresholds_tuned_on_these_examples"] = validation.tuned
        if validation.tuned:
            say(
                f"thresholds in {run_dir / thresholds.FILE} are tuned on the validation examples,"
                " so tuned_… metrics of other examples are usually lower (predict --score)"
            )
    if jax.process_index() == 0:
        write_records(records, run_dir / PREDICTIONS)
        samples = reporting.samples(validation.task, examples, records)
        write_records(samples, run_dir / reporting.SAMPLES)
        (run_dir / RUN_RESULTS).write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return metrics
