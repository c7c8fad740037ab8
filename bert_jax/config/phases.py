"""The consecutive phases of a run, each with its length, batch size and steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from bert_jax.runtime.errors import BadInputError, at_least


@dataclass(frozen=True)
class Phase:
    """A part of the run with one sequence length.

    Args:
        length: Tokens per sequence, including [CLS] and [SEP].
        steps: Updates; 0 = up to train.steps (last phase only).
        batch_size: Sequences per update; 0 = train.batch_size.
        learning_rate: Peak of a separate schedule that rises over warmup_steps and falls to 0 at
            the end of the phase; 0 = all phases share the optimizer's schedule. Moments and the
            number of updates continue in either case.
        warmup_steps: Updates over which the learning rate of this phase rises.
    """

    length: int = 128
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.length < 5:
            raise BadInputError(
                f"phases: length {self.length} is too short for [CLS] A [SEP] B [SEP];"
                " use at least 5"
            )
        at_least("phases", self, 0, "steps batch_size learning_rate warmup_steps")
        if self.warmup_steps and not self.learning_rate:
            raise BadInputError("phases: warmup_steps needs a learning_rate in the same phase")


def planned(phases: Sequence[Phase], total: int, batch_size: int) -> tuple[Phase, ...]:
    """Return the phases with steps and batch size resolved.

    Args:
        phases: As in the config.
        total: Total updates, which truncate or extend the phases; 0 = their sum.
        batch_size: For phases without one.

    Raises:
        BadInputError: There are no phases, one has no steps, or only some have a learning rate.
    """
    if not phases:
        raise BadInputError("phases is empty; add at least one {length, steps}")
    left = total or sum(phase.steps for phase in phases)
    resolved: list[Phase] = []
    for number, phase in enumerate(phases, start=1):
        last = number == len(phases)
        if phase.steps == 0 and not (last and total):
            raise BadInputError(
                f"phase {number} (length {phase.length}) has no steps; set its steps"
                + (" or train.steps" if last else "")
            )
        steps = left if last else min(phase.steps, left)
        left -= steps
        if steps:
            resolved.append(replace(phase, steps=steps, batch_size=phase.batch_size or batch_size))
    if len({phase.learning_rate > 0 for phase in resolved}) > 1:
        raise BadInputError(
            "phases: only some have a learning_rate; set it in every phase, or in none to use"
            " optimizer.learning_rate"
        )
    return tuple(resolved)


def remaining(phases: Sequence[Phase], step: int) -> Iterator[tuple[Phase, int, int]]:
    """Yield the phases after `step`, each with its first step and the step after its last."""
    start = 0
    for phase in phases:
        end = start + phase.steps
        if step < end:
            yield phase, max(start, step), end
        start = end


def number_of(step: int, phases: Sequence[Phase]) -> int:
    """Return the number of the phase of update `step`; the first is 1."""
    return len(phases) + 1 - sum(1 for _ in remaining(phases, step - 1))


def contradict(old: list[dict[str, int]], new: list[dict[str, int]]) -> bool:
    """Return true if a step in both lists of saved phases differs in length or batch size."""
    plans = [_spans(phases) for phases in (old, new)]
    steps = min(plan[-1][0] for plan in plans)
    starts = {0, *(end for plan in plans for end, _ in plan if end < steps)}
    before, after = (
        [next(size for end, size in plan if s < end) for s in starts] for plan in plans
    )
    return before != after


def _spans(phases: list[dict[str, int]]) -> list[tuple[int, tuple[int, int]]]:
    """Return the step after each phase, and its length and batch size."""
    ends = accumulate(phase["steps"] for phase in phases)
    return [(end, (p["length"], p["batch_size"])) for end, p in zip(ends, phases, strict=True)]


def written(phases: list[dict[str, Any]]) -> str:
    """Format saved phases for messages."""

    def line(phase: dict[str, Any]) -> str:
        text = f"{phase['steps']} steps of {phase['batch_size']} x {phase['length']}"
        if phase.get("learning_rate"):
            rate, warmup = phase["learning_rate"], phase["warmup_steps"]
            text += f" (learning_rate {rate:g}, warmup_steps {warmup})"
        return text

    return ", ".join(map(line, phases))
