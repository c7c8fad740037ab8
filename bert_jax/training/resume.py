"""Resume a run, and check what changed since its checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

from bert_jax.config.phases import contradict, written
from bert_jax.config.renamed_keys import renamed_keys
from bert_jax.config.resume_policies import resume_policies
from bert_jax.config.run import Phase, RunConfig, TrainableConfig, as_dict, flatten
from bert_jax.config.stores import changed_proportions
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.device_form import DeviceForm
from bert_jax.training.experiment import Experiment
from bert_jax.training.metadata import Meta
from bert_jax.training.state import TrainState, parameter_count

# The keys that decide the number of steps, of pre-training and of fine-tuning.
_LENGTH = ("train.steps or the steps of its phases", "train.epochs")


def restore_or_init(
    checkpoints: Checkpoints, experiment: Experiment, form: DeviceForm
) -> tuple[TrainState, Meta]:
    """Restore the newest good checkpoint of a run; initialize the run where none exists.

    Returns:
        The state as the devices need it, and its metadata.

    Raises:
        BadInputError: The run started with other settings, or all checkpoints are damaged.
    """

    def check(meta: Meta) -> None:
        lines = changes(
            meta.config, experiment.config, meta.data, experiment.data.digests, meta.step
        )
        for line in lines:
            say(f"changed since step {meta.step:,}: {line}")

    build = partial(form.partitioner.build, experiment.init_fn)
    warm_start_fn = experiment.warm_start_fn or build
    restored = checkpoints.restore(form.partitioner.abstract(form.stored), check)
    state, meta = restored or (warm_start_fn(), Meta())
    return form.on_device(state), meta


def report(state: Any, step: int, config: TrainableConfig) -> None:
    """Print where a run starts and the size of its network; `state` may be abstract."""
    say(f"{f'resuming at step {step:,}' if step else 'new run'} in {config.run_dir}")
    millions = parameter_count(state.params) / 1e6
    say(f"{millions:.1f}M parameters, {config.model.dtype} compute")


def note(experiment: Experiment, step: int, tokens: int, seconds: float) -> Meta:
    """Return the metadata to save beside the state after `step`."""
    return Meta(
        step=step,
        tokens=tokens,
        seconds=seconds,
        config=as_dict(experiment.config),
        data=experiment.data.digests,
        architecture=experiment.architecture,
        labels=experiment.labels,
        text_columns=experiment.text_columns,
        problem_type=experiment.problem_type,
    )


def changes(
    saved: dict[str, Any],
    config: TrainableConfig,
    saved_data: dict[str, str],
    data: dict[str, str],
    step: int,
) -> list[str]:
    """Return the allowed differences between a saved and a new config, as "key: old -> new".

    Args:
        saved: Resolved config in the checkpoint, as a nested dict.
        config: The new config.
        saved_data: Digests of store and tokenizer in the checkpoint.
        data: Digests of the present ones.
        step: Step of the checkpoint.

    Raises:
        BadInputError: A fixed key or the data differ, or the length or batch size of any step that
            both configs have; or the new config ends before `step`.
    """
    new = as_dict(config)
    if "phases" not in saved:
        raise BadInputError(
            f"{config.run_dir} has converted weights, not a run; give it as --init and choose"
            " another run_dir"
        )
    # A key that an older version lacked had the effect of its default.
    defaults = as_dict(RunConfig(run_dir="-", phases=(Phase(steps=1),)))
    before, now = flatten(defaults) | flatten(renamed_keys(saved)), flatten(new)
    if bool(before["init"]) != bool(now["init"]):
        start = f"with --init {before['init']}" if before["init"] else "without --init"
        raise BadInputError(
            f"{config.run_dir} started {start}; give the same to resume, or choose another run_dir"
        )
    if config.steps < step:
        raise BadInputError(
            f"{config.run_dir} is at step {step:,} already, beyond the {config.steps:,} steps of"
            f" this config; raise {_LENGTH['task' in new]}, or choose another run_dir"
        )
    policies = resume_policies(type(config))
    lines: dict[str, list[str]] = {"fixed": [], "print": [], "silent": []}
    for key, value in now.items():
        if before.get(key) != value:
            lines[policies.get(key, "fixed")].append(f"{key}: {before.get(key)} -> {value}")
    refused = [*lines["fixed"], *changed_proportions(saved, new)] + [
        f"{name}: {saved_data.get(name, 'none')[:12]} -> {digest[:12]}"
        for name, digest in data.items()
        if saved_data.get(name) != digest
    ]
    phases = f"phases: {written(saved['phases'])} -> {written(new['phases'])}"
    if contradict(saved["phases"], new["phases"]):
        refused.append(phases)
    if refused:
        raise BadInputError(
            f"{config.run_dir} cannot resume with a changed {'; '.join(refused)}."
            " Change it back, or start a new run with another run_dir"
        )
    if written(saved["phases"]) != written(new["phases"]):
        lines["print"].append(phases)
    return lines["print"]
