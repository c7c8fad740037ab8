"""``bert-jax tpu preflight``: estimate memory, time and cost of a run on a slice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import jax

from bert_jax.config.accelerators import Slice, find_slice, prices_as_of
from bert_jax.config.presets import PRESETS
from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.settings import command_parser
from tpu.config import read
from tpu.preflight import hlo_analysis
from tpu.preflight.hlo_analysis import CompiledStep, TooLargeError

_VOCABULARY = 30_522  # BERT, uncased
_HOUR = 3600


@dataclass(frozen=True)
class Plan:
    """A run on a slice.

    Attributes:
        slice: The slice.
        phases: The phases, each with its compiled step.
    """

    slice: Slice
    phases: list[tuple[Phase, CompiledStep]]

    @property
    def hours(self) -> float:
        """Time of all steps, without evaluations, checkpoints and interruptions."""
        return sum(phase.steps * step.seconds for phase, step in self.phases) / _HOUR

    @property
    def chip_hours(self) -> float:
        """Chip-hours of the whole slice."""
        return self.hours * self.slice.chips

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for programs."""
        phases = [
            {
                "length": phase.length,
                "steps": phase.steps,
                "rows_per_device": phase.batch_size // self.slice.devices,
                "seconds_per_step": step.seconds,
                "estimate": step.time.source,
                "seconds_by_operations": step.time.operations,
                "seconds_by_cycles": step.time.cycles,
                "exchange_seconds": step.time.exchange,
                "memory_gib": round(step.gib, 3),
                "temp_gib": round(step.temp_gib, 3),
                "argument_gib": round(step.argument_gib, 3),
                "granted_gib": self.slice.generation.granted_gib,
                "flops_per_step": step.flops,
                "model_flops_per_step": step.model_flops,
                "bytes_per_step": step.bytes,
                "collective_bytes": sum(step.collectives.values()),
                "collectives": step.collectives,
            }
            for phase, step in self.phases
        ]
        return {
            "accelerator": self.slice.name,
            "phases": phases,
            "hours": round(self.hours, 2),
            "chip_hours": round(self.chip_hours, 1),
        }


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu preflight",
        "Compile the training step of every phase for a slice, on a computer without a TPU, and"
        " estimate memory, time and cost. The config may be the first argument: preflight CONFIG.",
    )
    parser.add_argument("--accelerator", default="", help="such as v3-32; default: tpu.accelerator")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile in less time, to another program: for its memory, not for its time",
    )
    parser.add_argument(
        "--largest",
        action="store_true",
        help="also search the largest batch per device that fits, by compiling several times",
    )
    submitted, options = read(parser, argv)
    accelerator = options["accelerator"] or submitted.tpu.accelerator
    if not accelerator:
        raise BadArgumentsError("--accelerator is missing; choose one from bert-jax tpu types")
    slice_ = find_slice(accelerator)
    config = _complete(submitted.run)
    if options["quick"]:
        if not hlo_analysis.honors_effort(slice_):
            say(f"--quick has no effect: libtpu {version('libtpu')} compiles the same program")
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    try:
        plan = preflight(config, slice_)
    except TooLargeError as error:
        raise BadInputError(f"{error}. {_remedies(config, slice_)}") from None
    if options["json"]:
        print(json.dumps(plan.as_dict()))  # noqa: T201
    else:
        print(_table(plan))  # noqa: T201
    if options["largest"]:
        for phase in config.phases:
            rows = largest(config, phase, slice_)
            say(f"length {phase.length}: up to {rows} rows per device fit")


def preflight(config: RunConfig, slice_: Slice) -> Plan:
    """Compile the step of every phase.

    Raises:
        BadInputError: A batch cannot be divided among the devices.
        TooLargeError: A step does not fit.
    """
    phases = []
    for phase in config.phases:
        size = f"{phase.batch_size} x {phase.length}"
        say(f"compiling {size} for {slice_.name}, which may take minutes …")
        phases.append((phase, hlo_analysis.compile_step(config, phase, slice_)))
    return Plan(slice_, phases)


def largest(config: RunConfig, phase: Phase, slice_: Slice) -> int:
    """Return the number of rows per device that fit, up to an eighth too low."""
    parts = config.train.accumulate

    def fits(rows: int) -> bool:
        batch_size = rows * parts * slice_.devices
        try:
            hlo_analysis.compile_step(config, replace(phase, batch_size=batch_size), slice_)
        except TooLargeError:
            return False
        return True

    low, high = 0, 8
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * parts


def _complete(config: RunConfig) -> RunConfig:
    """Add a vocabulary size, which a real run takes from its store."""
    if config.init and not config.model.is_stated:
        raise BadArgumentsError(
            "preflight does not read --init MODEL; set the network with --model.preset NAME"
        )
    if config.model.vocab_size:
        return config
    size, *_ = PRESETS.get(config.model.preset, (_VOCABULARY,))
    say(f"assuming a vocabulary of {size:,} tokens; change it with --model.vocab_size")
    return replace(config, model=config.model.with_vocabulary(size))


def _remedies(config: RunConfig, slice_: Slice) -> str:
    """Compile with each setting that saves memory and report which of them fit."""
    options: list[tuple[str, dict[str, dict[str, Any]]]] = [
        ("--model.remat layers", {"model": {"remat": "layers"}}),
        ("--parallel.shard_state true", {"parallel": {"shard_state": True}}),
    ]
    rows = min(phase.batch_size for phase in config.phases) // slice_.devices
    for parts in (2, 4, 8, 16, 32, 64):
        if rows % parts == 0:
            options.append((f"--train.accumulate {parts}", {"train": {"accumulate": parts}}))
    fitting, too_large, accumulated = [], [], False
    for option, changes in options:
        if accumulated and "train" in changes:
            continue
        try:
            say(f"trying {option} …")
            preflight(_changed(config, changes), slice_)
        except TooLargeError:
            too_large.append(option)
        else:
            fitting.append(option)
            accumulated |= "train" in changes
    if not fitting:
        tried = ", ".join(too_large)
        return f"None of {tried} alone is enough; use a larger slice or a smaller batch"
    alone = f" (not enough alone: {', '.join(too_large)})" if too_large else ""
    return f"It fits with {' or '.join(fitting)}{alone}"


def _changed(config: RunConfig, changes: dict[str, dict[str, Any]]) -> RunConfig:
    for section, values in changes.items():
        config = replace(config, **{section: replace(getattr(config, section), **values)})
    return config


def _table(plan: Plan) -> str:
    slice_ = plan.slice
    lines = [
        f"{slice_.name}: {slice_.chips} chips ({slice_.topology}), {slice_.hosts} hosts,"
        f" {slice_.devices} JAX devices of {slice_.hbm:g} GiB"
    ]
    for phase, step in plan.phases:
        utilization = step.model_flops / (step.seconds * slice_.peak * slice_.devices)
        received = ", ".join(f"{n / 1e6:,.1f} MB {kind}" for kind, n in step.collectives.items())
        lines += [
            "",
            f"{phase.steps:,} steps of {phase.batch_size} x {phase.length}"
            f" ({phase.batch_size / slice_.devices:g} rows per device)",
            f"  memory       {step.gib:6.2f} of {slice_.generation.granted_gib:g} GiB that programs"
            f" get ({step.argument_gib:.2f} arguments, {step.temp_gib:.2f} temporary)",
            f"  work         {step.flops:.3g} FLOP in total, {step.bytes:.3g} bytes of memory"
            " traffic per device",
            f"  collectives  {received or 'none'} per device",
            f"  estimates    {step.time.operations * 1000:.2f} ms by operations,"
            f" {step.time.cycles * 1000:.2f} ms by cycles at {slice_.generation.clock_ghz:g} GHz",
            f"  exchange     {step.time.exchange * 1000:.2f} ms between chips, over all links",
            f"  time         {step.seconds * 1000:.1f} ms per step (by {step.time.source}, the"
            f" larger estimate, and the exchange; {utilization:.0%} of the peak),"
            f" {_duration(phase.steps * step.seconds)}",
        ]
    lines += [
        "",
        f"total: {_duration(plan.hours * _HOUR)}, {plan.chip_hours:,.0f} chip-hours{_price(plan)}",
        f"Estimates of the TPU compiler (libtpu {version('libtpu')}), without evaluations,"
        " checkpoints and waiting; not measured on hardware.",
    ]
    return "\n".join(lines)


def _price(plan: Plan) -> str:
    prices = plan.slice.generation.prices
    if prices is None:
        return ""
    on_demand, spot = (plan.chip_hours * prices[capacity] for capacity in ("on-demand", "spot"))
    return f", about {on_demand:,.0f} USD on demand or {spot:,.0f} USD spot ({prices_as_of()})"


def _duration(seconds: float) -> str:
    hours = seconds / _HOUR
    if hours < 1:
        return f"{seconds / 60:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
