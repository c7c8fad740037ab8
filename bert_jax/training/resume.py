"""Where a run goes on; what may change between two sittings of it, and what may not."""

from __future__ import annotations

from functools import partial
from typing import Any

from bert_jax.config.phases import contradict, written
from bert_jax.config.renamed import renamed_keys
from bert_jax.config.run import Phase, RunConfig, TrainableConfig, as_dict, flatten, resume_policies
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.checkpoint import Checkpoints, Meta
from bert_jax.training.experiment import Experiment
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState

# What decides the number of steps, of pre-training and of fine-tuning.
_LENGTH = ("train.steps or the steps of its phases", "train.epochs")


def restore_or_init(
    checkpoints: Checkpoints, experiment: Experiment, partitioner: Partitioner
) -> tuple[TrainState, Meta]:
    """The newest good checkpoint of a run; its beginning where there is none.

    Raises:
        BadInputError: The run began with other settings, or all checkpoints are damaged.
    """

    def check(meta: Meta) -> None:
        lines = changes(
            meta.config, experiment.config, meta.data, experiment.data.digests, meta.step
        )
        for line in lines:
            say(f"changed since step {meta.step:,}: {line}")

    warm_start_fn = experiment.warm_start_fn or partial(partitioner.build, experiment.init_fn)
    return checkpoints.restore(partitioner.abstract_state(experiment.init_fn), check) or (
        warm_start_fn(),
        Meta(),
    )


def note(experiment: Experiment, step: int, tokens: int, seconds: float) -> Meta:
    """What is saved beside the state after `step`, to go on from there."""
    return Meta(
        step=step,
        tokens=tokens,
        seconds=seconds,
        config=as_dict(experiment.config),
        data=experiment.data.digests,
        architecture=experiment.architecture,
        labels=experiment.labels,
    )


def changes(
    old: dict[str, Any],
    config: TrainableConfig,
    old_data: dict[str, str],
    new_data: dict[str, str],
    step: int,
) -> list[str]:
    """The harmless differences between a saved config and the one asked for, as "key: old -> new".

    Args:
        old: Resolved config in the checkpoint, as a nested dict.
        config: The config asked for.
        old_data: Digests of store and tokenizer in the checkpoint.
        new_data: Digests of what is there now.
        step: Of the checkpoint.

    Raises:
        BadInputError: Network, data or seed differ, or the length or batch size of any step that
            both have; or the config ends before `step`.
    """
    new, policies = as_dict(config), resume_policies(type(config))
    if "phases" not in old:
        raise BadInputError(
            f"{new['run_dir']} holds converted weights, not a run; give it as --init, and another"
            " run_dir"
        )
    # What an older version did not know, it did as the default says.
    was = flatten(as_dict(RunConfig(run_dir="-", phases=(Phase(steps=1),)))) | flatten(
        renamed_keys(old)
    )
    now = flatten(new)
    if bool(was["init"]) != bool(now["init"]):
        began = f"with --init {was['init']}" if was["init"] else "without --init"
        raise BadInputError(
            f"{now['run_dir']} began {began}; give the same to go on, or choose another run_dir"
        )
    asked = sum(phase["steps"] for phase in new["phases"])
    if asked < step:
        raise BadInputError(
            f"{now['run_dir']} is at step {step:,} already, beyond the {asked:,} steps of this"
            f" config; raise {_LENGTH['task' in new]}, or choose another run_dir"
        )
    differing = {key: (was.get(key), now.get(key)) for key in now if was.get(key) != now.get(key)}
    refused = [
        f"{key}: {a} -> {b}" for key, (a, b) in differing.items() if policies[key] == "fixed"
    ]
    refused += [
        f"{name}: {old_data.get(name, 'none')[:12]} -> {new_data[name][:12]}"
        for name in new_data
        if old_data.get(name) != new_data[name]
    ]
    if contradict(old["phases"], new["phases"]):
        refused.append(f"phases: {written(old['phases'])} -> {written(new['phases'])}")
    if refused:
        raise BadInputError(
            f"{now['run_dir']} cannot go on with another setting of {'; '.join(refused)}."
            " Change it back, or start a new run with another run_dir"
        )
    allowed = [
        f"{key}: {a} -> {b}" for key, (a, b) in differing.items() if policies[key] == "print"
    ]
    if written(old["phases"]) != written(new["phases"]):
        allowed.append(f"phases: {written(old['phases'])} -> {written(new['phases'])}")
    return allowed
