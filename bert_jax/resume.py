"""What may change between two sittings of one run, and what may not."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from bert_jax.config import flatten
from bert_jax.errors import BadInputError

# Whatever is not listed here and not a digest of the data may change; it is printed.
_FIXED = {
    "seed",
    "data.mlm_probability",
    "data.max_predictions",
    "data.short_seq_prob",
    "model.vocab_size",
    "model.hidden_size",
    "model.layers",
    "model.heads",
    "model.feed_forward_size",
    "model.max_positions",
    "model.segments",
    "model.gelu",
    "model.layer_norm_epsilon",
    "optimizer.recipe",
}
# Follow from other keys, or say only where things are: not worth a line.
_SILENT = {"run_dir", "data.store", "train.steps", "train.batch_size", "model.preset", "phases"}


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
        BadInputError: Network, data, seed or a phase's length or batch size differ, or the steps of
            a phase that is over.
    """
    was, now = flatten(old), flatten(new)
    differing = {key: (was.get(key), now.get(key)) for key in now if was.get(key) != now.get(key)}
    refused = [f"{key}: {a} -> {b}" for key, (a, b) in differing.items() if key in _FIXED]
    refused += [
        f"{name}: {old_data[name][:12]} -> {new_data[name][:12]}"
        for name in new_data
        if old_data.get(name) != new_data[name]
    ]
    if _contradict(old["phases"], new["phases"], step):
        refused.append(f"phases: {_written(old['phases'])} -> {_written(new['phases'])}")
    if refused:
        raise BadInputError(
            f"{now['run_dir']} cannot go on with another setting of {'; '.join(refused)}."
            " Change it back, or start a new run with another run_dir"
        )
    allowed = [f"{key}: {a} -> {b}" for key, (a, b) in differing.items() if key not in _SILENT]
    if old["phases"] != new["phases"]:
        allowed.append(f"phases: {_written(old['phases'])} -> {_written(new['phases'])}")
    return allowed


def _contradict(old: list[dict[str, int]], new: list[dict[str, int]], step: int) -> bool:
    """Whether phases differ in length or batch size, or in the steps of one that is over."""
    for was, now in zip(old, new, strict=False):
        if (was["length"], was["batch_size"]) != (now["length"], now["batch_size"]):
            return True
    ends = list(accumulate(phase["steps"] for phase in old))
    over = [phase["steps"] for phase, end in zip(old, ends, strict=True) if end < step]
    return over != [phase["steps"] for phase in new[: len(over)]]


def _written(phases: list[dict[str, int]]) -> str:
    return ", ".join(f"{p['steps']} steps of {p['batch_size']} x {p['length']}" for p in phases)
