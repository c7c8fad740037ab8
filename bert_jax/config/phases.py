"""The stretches of a run, one after the other: each with its length, batch size and steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from bert_jax.runtime.errors import BadInputError, at_least


@dataclass(frozen=True)
class Phase:
    """A stretch of the run with one sequence length.

    Args:
        length: Tokens of a sequence, [CLS] and [SEP] included.
        steps: Updates; 0 = up to train.steps (last phase only).
        batch_size: Sequences per update; 0 = train.batch_size.
        learning_rate: Peak of a schedule of this phase alone, which rises over its warmup_steps and
            falls to 0 at its end; 0 = the phases share one schedule, that of the optimizer. What
            the optimiser remembers, and the count of steps, go on in either case.
        warmup_steps: Updates over which this phase's own learning rate rises.
    """

    length: int = 128
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.length < 5:
            raise BadInputError(
                f"phases: length {self.length} has no room for [CLS] A [SEP] B [SEP];"
                " use at least 5"
            )
        at_least("phases", self, 0, "steps batch_size learning_rate warmup_steps")
        if self.warmup_steps and not self.learning_rate:
            raise BadInputError("phases: warmup_steps needs a learning_rate of the same phase")


def planned(phases: Sequence[Phase], total: int, batch_size: int) -> tuple[Phase, ...]:
    """The phases with their steps and batch size stated.

    Args:
        phases: As they are asked for.
        total: Updates at which they are cut off, or the last one ends; 0 = their sum.
        batch_size: Of those that do not say.

    Raises:
        BadInputError: There are none, or one has no steps, or only some have a learning rate.
    """
    if not phases:
        raise BadInputError("phases is empty; give at least one {length, steps}")
    left = total or sum(phase.steps for phase in phases)
    resolved: list[Phase] = []
    for number, phase in enumerate(phases, start=1):
        last = number == len(phases)
        if phase.steps == 0 and not (last and total):
            raise BadInputError(
                f"phase {number} (length {phase.length}) has no steps; give it some"
                + (", or set train.steps" if last else "")
            )
        steps = left if last else min(phase.steps, left)
        left -= steps
        if steps:
            resolved.append(replace(phase, steps=steps, batch_size=phase.batch_size or batch_size))
    if len({phase.learning_rate > 0 for phase in resolved}) > 1:
        raise BadInputError(
            "phases: give every phase a learning_rate of its own, or none (then they share"
            " optimizer.learning_rate)"
        )
    return tuple(resolved)


def remaining(phases: Sequence[Phase], step: int) -> Iterator[tuple[Phase, int, int]]:
    """The phases left after `step`, each with its first step and the one after its last."""
    begin = 0
    for phase in phases:
        end = begin + phase.steps
        if step < end:
            yield phase, max(begin, step), end
        begin = end


def number_of(step: int, phases: Sequence[Phase]) -> int:
    """Which phase update `step` belongs to; the first is 1."""
    return len(phases) + 1 - sum(1 for _ in remaining(phases, step - 1))


def contradict(old: list[dict[str, int]], new: list[dict[str, int]]) -> bool:
    """Whether a step that both plans, of saved phases, have differs in length or batch size."""
    plans = [_spans(phases) for phases in (old, new)]
    steps = min(plan[-1][0] for plan in plans)
    begins = {0, *(end for plan in plans for end, _ in plan if end < steps)}
    was, now = ([next(kind for end, kind in plan if s < end) for s in begins] for plan in plans)
    return was != now


def _spans(phases: list[dict[str, int]]) -> list[tuple[int, tuple[int, int]]]:
    """The step after each phase, and its length and batch size."""
    ends = accumulate(phase["steps"] for phase in phases)
    return [(end, (p["length"], p["batch_size"])) for end, p in zip(ends, phases, strict=True)]


def written(phases: list[dict[str, Any]]) -> str:
    """Saved phases, to be read by people."""

    def one(phase: dict[str, Any]) -> str:
        text = f"{phase['steps']} steps of {phase['batch_size']} x {phase['length']}"
        if phase.get("learning_rate"):
            rate, warmup = phase["learning_rate"], phase["warmup_steps"]
            text += f" (learning_rate {rate:g}, warmup_steps {warmup})"
        return text

    return ", ".join(map(one, phases))
