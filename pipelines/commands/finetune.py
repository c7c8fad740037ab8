"""``bert-jax finetune TASK``: train a model on a task; the same command again resumes."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from bert_jax.runtime import distributed, trackers
from bert_jax.runtime.console import be_quiet, say, summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import at
from bert_jax.training.checkpoint import newest_meta
from bert_jax.training.partitioner import Partitioner
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.help import example
from pipelines.models.open import LoadedModel, network_of, open_model
from pipelines.run_folder import metrics_table, taken, train
from pipelines.settings import Count, command_parser, read_config
from pipelines.tasks import reporting
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.experiment import (
    PREDICTIONS,
    Examples,
    Validation,
    finetuning,
    logits_step,
    planned,
    write_records,
)
from pipelines.tasks.registry import TASKS, open_task, task_network
from pipelines.tasks.task import Task

RESULTS = "eval_results.json"


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if not argv or argv[0] in ("-h", "--help"):
        print(  # noqa: T201
            "usage: bert-jax finetune TASK --init MODEL --data.train FILE --run_dir RUN [options]\n"
            f"\ntasks: {', '.join(TASKS)}\nbert-jax finetune TASK --help lists the options"
            f"\n\n{example('finetune')}"
        )
        if argv:
            return
        raise BadArgumentsError(f"give a task: {', '.join(TASKS)}")
    name, *rest = argv
    if name.startswith("-"):
        raise BadArgumentsError(f"the task comes first: bert-jax finetune TASK {name} …")
    open_task(name)
    parser = command_parser(
        f"finetune {name}", f"Trains a model on {name}; the same command again resumes."
    )
    parser.add_argument(
        "--seeds",
        type=Count,
        default=1,
        metavar="N",
        help="train N times, in run_dir/seed-…, and print mean and deviation of the metrics",
    )
    config, others = read_config(parser, rest, FinetuneConfig)
    seeds = others["seeds"]
    if config.task not in ("", name):
        raise BadInputError(
            f"the config is for {config.task}, not for {name}; use bert-jax finetune {config.task}"
        )
    if seeds > 1 and not config.data.validation:
        raise BadArgumentsError("--seeds compares on data.validation, which is not set")
    config = replace(config, task=name)
    distributed.enable_compilation_cache()
    partitioner = Partitioner.of(config.parallel, distributed.join())
    if jax.process_index():
        be_quiet()
    if seeds == 1:
        finetune(config, partitioner)
        return
    found = []
    for seed in range(config.seed, config.seed + seeds):
        run_dir = str(at(config.run_dir) / f"seed-{seed}")
        found.append(finetune(replace(config, seed=seed, run_dir=run_dir), partitioner))
    _summarise(found, at(config.run_dir))


def finetune(config: FinetuneConfig, partitioner: Partitioner) -> dict[str, Any]:
    """Trains, or goes on training, the run that `config` describes.

    Args:
        config: Of the run, ``task`` and ``run_dir`` included.
        partitioner: The devices, and how the step is mapped over them.

    Returns:
        The metrics of the last evaluation by name; empty without validation data.

    Raises:
        BadInputError: Config, data, model and run folder do not fit each other.
        PreemptedError: The process was told to end; everything is saved.

    Source: Devlin et al. 2018, section 4 and appendix A.3.
    """
    started = time.monotonic()
    trackers.require(config.wandb)
    task, run_dir = open_task(config.task, config.options), at(config.run_dir)
    columns = config.data.columns
    examples = task.read(config.data.train, columns, labelled=True)
    measured = config.data.validation
    held_out = task.read(measured, columns, labelled=True) if measured else []
    with taken(run_dir):
        config, classes, tokenizer, model = _start(config, task, examples, partitioner)
        length = min(config.data.length, config.model.max_positions)
        if length < config.data.length:
            say(f"data.length {config.data.length} is cut to the {length} positions of the model")
        sets = [
            Examples(given, task.features(given, tokenizer, length, classes))
            for given in (examples, held_out)
            if given
        ]
        learned = examples and sets[0].features.arrays["weights"].any()
        rows = len(sets[0].features.examples) if learned else 0
        config = planned(config, rows)
        say(f"{len(examples):,} examples in {rows:,} rows, {len(held_out):,} to measure on")
        network = task_network(config, len(classes))
        validation = Validation(
            sets[1] if held_out else None,
            task,
            classes,
            logits_step(network, partitioner),
            partitioner,
        )
        experiment = finetuning(
            config, task, classes, sets[0], validation, tokenizer, partitioner, model
        )
        params = train(
            experiment, partitioner, tokenizer, {reporting.DATA: _described(task, sets, length)}
        )
        if validation.latest is None:  # the run was complete already
            validation(None, params, config.phases[-1])
        found = _results(run_dir, config, held_out, validation)
        metrics = {name: f"{x:.4g}" for name, x in found.items() if isinstance(x, float)}
        summary(
            f"{run_dir} is complete: {config.steps:,} of {config.steps:,} steps",
            started,
            ("predict", str(run_dir), "--input", "FILE", "--output", "predictions.jsonl"),
            **metrics_table(run_dir, "loss"),
            **metrics,
            results=run_dir / RESULTS if found else "",
        )
        return found


def _described(task: Task, sets: Sequence[Examples], length: int) -> bytes:
    """What the report says of the data: JSON, with `shown.facts` of each set."""
    found = {
        name: reporting.facts(task, one.examples, one.features, length)
        for name, one in zip(("train", "validation"), sets, strict=False)
    }
    return json.dumps({"length": length, **found}).encode()


def _start(
    config: FinetuneConfig, task: Task, examples: Sequence[Any], partitioner: Partitioner
) -> tuple[FinetuneConfig, list[str], Tokenizer, LoadedModel | None]:
    """Network, classes and tokenizer: of the run if it has begun, else of the model given."""
    run_dir = at(config.run_dir)
    meta = newest_meta(run_dir)
    if meta is not None:
        if meta.config.get("task") != config.task:
            raise BadInputError(f"{run_dir} is no run of {config.task}; choose another run_dir")
        network, classes = network_of(meta, run_dir), meta.labels
        tokenizer, model = tokenizers.load(run_dir), None
        config = replace(config, init=config.init or meta.config["init"])
    elif not config.init:
        raise BadInputError("init is not set; give the model to start from, as --init MODEL")
    else:
        model = open_model(at(config.init), partitioner)
        network, tokenizer = model.network, model.tokenizer()
        classes = task.classes(examples)
    return (
        replace(config, model=config.model.started_from(network)),
        list(classes),
        tokenizer,
        model,
    )


def _results(
    run_dir: Path, config: FinetuneConfig, examples: Sequence[Any], validation: Validation
) -> dict[str, Any]:
    """The last evaluation, which is also written down, with what `report` shows of it."""
    if validation.latest is None:
        return {}
    metrics, records = validation.latest
    written: dict[str, Any] = {"step": config.steps, **metrics}
    if config.task == "classification":
        # Brings scikit-learn, which other tasks need not wait for.
        from pipelines.tasks.classification import confusion

        matrix = confusion(examples, records, validation.classes)
        written["confusion"] = {"classes": validation.classes, "true_by_predicted": matrix}
    if config.task == "tagging":
        from pipelines.tasks.tagging.bio_tags import by_type

        tags = [one.tags for one in examples], [record["tags"] for record in records]
        written["types"] = by_type(*tags)
    if jax.process_index() == 0:
        write_records(records, run_dir / PREDICTIONS)
        looked_at = reporting.samples(validation.task, examples, records)
        write_records(looked_at, run_dir / reporting.SAMPLES)
        (run_dir / RESULTS).write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    return metrics


def _summarise(found: Sequence[dict[str, Any]], run_dir: Path) -> None:
    """Mean and standard deviation over the seeds."""
    names = [name for name, value in found[0].items() if isinstance(value, float)]
    table = {}
    for name in names:
        values = [one[name] for one in found]
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        table[name] = {"mean": mean, "sd": deviation, "values": values}
        say(f"{name}: {mean:.4f} ± {deviation:.4f} over {len(values)} seeds")
    if jax.process_index() == 0:
        (run_dir / RESULTS).write_text(json.dumps(table, indent=1) + "\n", "utf-8")
