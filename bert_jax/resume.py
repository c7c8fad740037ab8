"""What may change between two sittings of one run, and what may not."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from bert_jax.config import Phase, RunConfig, as_dict, flatten
from bert_jax.errors import BadInputError

# Whatever is not listed here and not a digest of the data may change; it is printed.
_FIXED = {
    "seed",
    "task",
    "head.kind",
    "head.features",
    "head.lstm_layers",
    "data.length",
    "data.mlm_probability",
    "data.max_predictions",
    "data.short_seq_prob",
    "data.objective",
    "data.whole_words",
    "data.packing",
    "data.shuffle_tokens",
    "model.vocab_size",
    "model.hidden_size",
    "model.layers",
    "model.heads",
    "model.feed_forward_size",
    "model.max_positions",
    "model.segments",
    "model.gelu",
    "model.layer_norm_epsilon",
    "model.encoder",
    "optimizer.recipe",
    "optimizer.first_moment",
}
# What decides the number of steps, of pre-training and of fine-tuning.
_LENGTH = ("train.steps or the steps of its phases", "train.epochs")
# Follow from other keys, or say only where things are: not worth a line.
_SILENT = {
    "run_dir",
    "profile",
    "data.store",
    "train.steps",
    "train.batch_size",
    "model.preset",
    "phases",
}


def changes(
    old: dict[str, Any],
    new: dict[str, Any],
    old_data: dict[str, str],
    new_data: dict[str, str],
    step: int,
) -> list[str]:
    """The harmless differences between a saved config and the one asked for, as "key: old -> new".

    Args:
        old: Resolved config in the checkpoint, as a nested dict.
        new: Resolved config asked for.
        old_data: Digests of store and tokenizer in the checkpoint.
        new_data: Digests of what is there now.
        step: Of the checkpoint.

    Raises:
        BadInputError: Network, data or seed differ, or the length or batch size of any step that
            both have; or the config ends before `step`.
    """
    if "phases" not in old:
        raise BadInputError(
            f"{new['run_dir']} holds converted weights, not a run; give it as --init, and another"
            " run_dir"
        )
    # What an older version did not know, it did as the default says.
    was = flatten(as_dict(RunConfig(run_dir="-", phases=(Phase(steps=1),)))) | flatten(old)
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
    refused = [f"{key}: {a} -> {b}" for key, (a, b) in differing.items() if key in _FIXED]
    refused += [
        f"{name}: {old_data.get(name, 'none')[:12]} -> {new_data[name][:12]}"
        for name in new_data
        if old_data.get(name) != new_data[name]
    ]
    if _contradict(old["phases"], new["phases"]):
        refused.append(f"phases: {_written(old['phases'])} -> {_written(new['phases'])}")
    if refused:
        raise BadInputError(
            f"{now['run_dir']} cannot go on with another setting of {'; '.join(refused)}."
            " Change it back, or start a new run with another run_dir"
        )
    allowed = [f"{key}: {a} -> {b}" for key, (a, b) in differing.items() if key not in _SILENT]
    if _written(old["phases"]) != _written(new["phases"]):
        allowed.append(f"phases: {_written(old['phases'])} -> {_written(new['phases'])}")
    return allowed


def _contradict(old: list[dict[str, int]], new: list[dict[str, int]]) -> bool:
    """Whether a step that both plans have differs in length or batch size."""
    plans = [_spans(phases) for phases in (old, new)]
    steps = min(plan[-1][0] for plan in plans)
    begins = {0, *(end for plan in plans for end, _ in plan if end < steps)}
    was, now = ([next(kind for end, kind in plan if s < end) for s in begins] for plan in plans)
    return was != now


def _spans(phases: list[dict[str, int]]) -> list[tuple[int, tuple[int, int]]]:
    """The step after each phase, and its length and batch size."""
    ends = accumulate(phase["steps"] for phase in phases)
    return [(end, (p["length"], p["batch_size"])) for end, p in zip(ends, phases, strict=True)]


def _written(phases: list[dict[str, Any]]) -> str:
    def one(phase: dict[str, Any]) -> str:
        text = f"{phase['steps']} steps of {phase['batch_size']} x {phase['length']}"
        if phase.get("learning_rate"):
            rate, warmup = phase["learning_rate"], phase["warmup_steps"]
            text += f" (learning_rate {rate:g}, warmup_steps {warmup})"
        return text

    return ", ".join(map(one, phases))
