"""``python -m tpu preflight``: will this run fit on that slice, and how long will it take?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from bert_jax.config.presets import PRESETS
from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.settings import command_parser
from tpu.config import read
from tpu.preflight import hlo_analysis
from tpu.preflight.hlo_analysis import Program
from tpu.slices import PRICES_AS_OF, Slice, find

_VOCABULARY = 30_522  # of BERT, uncased
_HOUR = 3600


@dataclass(frozen=True)
class Plan:
    """A run on a slice.

    Attributes:
        on: The slice.
        phases: Each with its compiled step.
    """

    on: Slice
    phases: list[tuple[Phase, Program]]

    @property
    def hours(self) -> float:
        """To the end, without evaluations, checkpoints and interruptions."""
        return sum(phase.steps * program.seconds for phase, program in self.phases) / _HOUR

    @property
    def chip_hours(self) -> float:
        """Of the whole slice."""
        return self.hours * self.on.chips

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        phases = [
            {
                "length": phase.length,
                "steps": phase.steps,
                "rows_per_device": phase.batch_size // self.on.devices,
                "seconds_per_step": program.seconds,
                "estimate": program.estimate,
                "temp_gib": round(program.temp_gib, 3),
                "argument_gib": round(program.argument_gib, 3),
                "hbm_gib": self.on.hbm,
                "flops_per_step": program.flops,
                "model_flops_per_step": program.model_flops,
                "bytes_per_step": program.bytes,
                "collective_bytes": sum(program.collectives.values()),
                "collectives": program.collectives,
            }
            for phase, program in self.phases
        ]
        return {
            "accelerator": self.on.name,
            "phases": phases,
            "hours": round(self.hours, 2),
            "chip_hours": round(self.chip_hours, 1),
        }


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser(
        "tpu preflight",
        "Compiles the training step of every phase for a TPU slice, on a machine without a TPU, and"
        " estimates memory, time and cost. The config may stand first: preflight CONFIG.",
    )
    parser.add_argument(
        "--accelerator", default="", help="such as v3-32; the config's tpu.accelerator unless given"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile with less effort, several times faster; some 15 %, once 27 %, off",
    )
    parser.add_argument(
        "--largest",
        action="store_true",
        help="also search the largest batch of a device that fits, which compiles several times",
    )
    submitted, options = read(parser, argv)
    accelerator = options["accelerator"] or submitted.tpu.accelerator
    if not accelerator:
        raise BadArgumentsError("give --accelerator, such as v3-32 (python -m tpu types lists all)")
    on = find(accelerator)
    config = _complete(submitted.run)
    if options["quick"]:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    try:
        plan = preflight(config, on)
    except BadInputError as error:
        if hlo_analysis.is_oom(error):
            raise BadInputError(f"{error}. {_remedies(config, on)}") from None
        raise
    if options["json"]:
        print(json.dumps(plan.as_dict()))  # noqa: T201
    else:
        print(_table(plan))  # noqa: T201
    if options["largest"]:
        for phase in config.phases:
            say(f"length {phase.length}: at most {largest(config, phase, on)} rows per device fit")


def preflight(config: RunConfig, on: Slice) -> Plan:
    """Compiles the step of every phase.

    Raises:
        BadInputError: A batch cannot be split over the devices, or a step does not fit.
    """
    found = []
    for phase in config.phases:
        say(f"compiling {phase.batch_size} x {phase.length} for {on.name}, up to some minutes …")
        found.append((phase, hlo_analysis.compiled(config, phase, on)))
    return Plan(on, found)


def largest(config: RunConfig, phase: Phase, on: Slice) -> int:
    """Rows of a device that still fit; what is left over is less than an eighth."""

    def fits(rows: int) -> bool:
        try:
            hlo_analysis.compiled(config, replace(phase, batch_size=rows * parts * on.devices), on)
        except BadInputError as error:
            if hlo_analysis.is_oom(error):
                return False
            raise
        return True

    parts = config.train.accumulate
    low, high = 0, 8
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * parts


def _complete(config: RunConfig) -> RunConfig:
    """With a vocabulary, which is the store's in a real run."""
    if config.init and not config.model.is_stated:
        raise BadArgumentsError(
            "preflight does not open --init MODEL; give the network as --model.preset NAME"
        )
    if config.model.vocab_size:
        return config
    size, *_ = PRESETS.get(config.model.preset, (_VOCABULARY,))
    say(f"a vocabulary of {size:,} is assumed; say otherwise with --model.vocab_size")
    return replace(config, model=config.model.with_vocabulary(size))


def _remedies(config: RunConfig, on: Slice) -> str:
    """Which of the settings that save memory would make it fit; each is compiled."""
    tried: list[tuple[str, dict[str, dict[str, Any]]]] = [
        ("--model.remat layers", {"model": {"remat": "layers"}}),
        ("--parallel.shard_state true", {"parallel": {"shard_state": True}}),
    ]
    rows = min(phase.batch_size for phase in config.phases) // on.devices
    for parts in (2, 4, 8, 16, 32, 64):
        if rows % parts == 0:
            tried.append((f"--train.accumulate {parts}", {"train": {"accumulate": parts}}))
    enough, short, accumulated = [], [], False
    for words, change in tried:
        if accumulated and "train" in change:
            continue
        try:
            say(f"trying {words} …")
            preflight(_changed(config, change), on)
        except BadInputError as error:
            if not hlo_analysis.is_oom(error):
                raise
            short.append(words)
        else:
            enough.append(words)
            accumulated |= "train" in change
    if not enough:
        return f"None of {', '.join(short)} is enough alone; use a larger slice or a smaller batch"
    alone = f" (not enough alone: {', '.join(short)})" if short else ""
    return f"It fits with {' or '.join(enough)}{alone}"


def _changed(config: RunConfig, change: dict[str, dict[str, Any]]) -> RunConfig:
    for section, values in change.items():
        config = replace(config, **{section: replace(getattr(config, section), **values)})
    return config


def _table(plan: Plan) -> str:
    on = plan.on
    lines = [
        f"{on.name}: {on.chips} chips ({on.topology}), {on.hosts} hosts, {on.devices} JAX devices"
        f" of {on.hbm:g} GiB"
    ]
    for phase, program in plan.phases:
        share = program.model_flops / (program.seconds * on.peak * on.devices)
        moved = ", ".join(f"{n / 1e6:,.1f} MB {k}" for k, n in program.collectives.items())
        lines += [
            "",
            f"{phase.steps:,} steps of {phase.batch_size} x {phase.length}"
            f" ({phase.batch_size / on.devices:g} rows per device)",
            f"  memory       {program.gib:6.2f} of {on.hbm:g} GiB ({program.argument_gib:.2f}"
            f" arguments, {program.temp_gib:.2f} temporary)",
            f"  work         {program.flops:.3g} FLOP in all, {program.bytes:.3g} bytes of memory"
            " traffic per device",
            f"  exchanged    {moved or 'nothing'} per device",
            f"  time         {program.seconds * 1000:.1f} ms a step ({program.estimate}'s"
            f" estimate; {share:.0%} of the peak), {_span(phase.steps * program.seconds)}",
        ]
    lines += [
        "",
        f"to the end: {_span(plan.hours * _HOUR)}, {plan.chip_hours:,.0f} chip-hours{_price(plan)}",
        "Estimates of the TPU compiler's cost model, without evaluations, checkpoints and waiting;"
        " not measured on hardware.",
    ]
    return "\n".join(lines)


def _price(plan: Plan) -> str:
    if plan.on.generation.prices is None:
        return ""
    dear, cheap = (plan.chip_hours * price for price in plan.on.generation.prices)
    return f", some {dear:,.0f} USD on demand or {cheap:,.0f} spot ({PRICES_AS_OF})"


def _span(seconds: float) -> str:
    hours = seconds / _HOUR
    if hours < 1:
        return f"{seconds / 60:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
