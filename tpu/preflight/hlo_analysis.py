"""What the TPU compiler says of a training step, on a machine without a TPU.

libtpu compiles for any topology. Its figures are estimates of a cost model, never measurements.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.errors import BadInputError, DeviceUnavailableError
from bert_jax.training.flops import training_flops
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import init_state
from bert_jax.training.step import Steps
from pipelines.data.batches.examples import batch_shape
from tpu.slices import Slice

GIB = 2**30
_SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}
_COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<shapes>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter"
    r"|all-to-all|collective-permute)(?P<start>-start)?\(",
    re.MULTILINE,
)
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Program:
    """A compiled step.

    Attributes:
        seconds: Of a step, estimated.
        estimate: Whose estimate: the compiler's, or a roofline: the larger of the time for the
            arithmetic and that for the memory traffic.
        argument_gib: Memory of a device that parameters, optimiser state and batch take.
        temp_gib: What the step needs beside.
        flops: Of all devices, as the compiler counts.
        bytes: Memory traffic of a device.
        collectives: Kind -> bytes that a device gets, per step.
        model_flops: Of all devices, as `bert_jax.training.flops` counts: the matrix products alone.
    """

    seconds: float
    estimate: str
    argument_gib: float
    temp_gib: float
    flops: float
    bytes: float
    collectives: dict[str, int]
    model_flops: float

    @property
    def gib(self) -> float:
        """Memory of a device, in all."""
        return self.argument_gib + self.temp_gib


def topology(of: Slice) -> tuple[jax.Device, ...]:
    """The devices of a slice, which are not there, for the compiler.

    Raises:
        DeviceUnavailableError: libtpu is not installed, or another process uses it.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", of.name)
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if of.generation.name == "v4":
        options["chip_config_name"] = "megacore"
    if of.hosts == 1 and not of.generation.counts_cores:
        options["chips_per_host_bounds"] = [*map(int, of.topology.split("x")), 1]
    try:
        found = topologies.get_topology_desc(
            f"{of.generation.name}:{of.topology}", "tpu", **options
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DeviceUnavailableError(
            f"the TPU compiler does not start: {reason}; pip install 'bert-jax[tpu]', and let"
            " no other process use it at the same time"
        ) from None
    return tuple(found.devices)


def compiled(config: RunConfig, phase: Phase, on: Slice) -> Program:
    """The training step of a phase.

    Raises:
        BadInputError: The batch cannot be split, there is no estimate for such a step, or it needs
            more memory than there is; the message of the latter begins with "does not fit".
        DeviceUnavailableError: See `topology`.
    """
    if config.parallel.mapping == "pmap":
        raise BadInputError("preflight compiles parallel.mapping: jit, not pmap; use it")
    if config.model.encoder == "lstm":
        raise BadInputError(
            "preflight has no estimate for model.encoder: lstm; the compiler counts its loop over"
            " the tokens once"
        )
    partitioner = Partitioner(topology(on), shard_state=config.parallel.shard_state)
    parts = config.train.accumulate
    partitioner.rows(phase.batch_size, parts)
    program = _compile(config, phase, partitioner)
    # The compiler counts what is in a loop once, so the parts of a batch are counted by hand; with
    # the update among them each time, which makes it a little too much.
    part = program
    if parts > 1:
        whole = replace(config, train=replace(config.train, accumulate=1))
        part = _compile(whole, replace(phase, batch_size=phase.batch_size // parts), partitioner)
    memory, cost = program.memory_analysis(), part.cost_analysis()
    flops, traffic = parts * float(cost["flops"]), parts * float(cost["bytes accessed"])
    by_compiler = parts * float(cost.get("optimal_seconds", -1.0))
    timed = on.generation.timed and by_compiler > 0
    tokens = phase.batch_size * phase.length
    predictions = phase.batch_size * config.data.predictions(phase.length)
    return Program(
        seconds=by_compiler if timed else max(flops / on.peak, traffic / on.bandwidth),
        estimate="compiler" if timed else "roofline",
        argument_gib=memory.argument_size_in_bytes / GIB,
        temp_gib=memory.temp_size_in_bytes / GIB,
        flops=flops * on.devices,
        bytes=traffic,
        collectives=collectives(program.as_text()),
        model_flops=training_flops(config.model, tokens, phase.batch_size, predictions),
    )


def _compile(config: RunConfig, phase: Phase, partitioner: Partitioner) -> Any:
    steps = Steps.of(config)
    state = partitioner.abstract_state(
        lambda: init_state(config.model, steps.optimizer, config.seed)
    )
    batch = partitioner.abstract_batch(batch_shape(config.data, phase.length, phase.batch_size))
    try:
        return partitioner.train_step(steps).lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        raise _explained(error) from None


def collectives(text: str) -> dict[str, int]:
    """Bytes that each kind of collective operation of a compiled program leaves on a device.

    Args:
        text: Of the program, in HLO. What is in a loop counts once; of a reduce-scatter counts the
            part that is left, not what was exchanged for it.
    """
    found: Counter[str] = Counter()
    for match in _COLLECTIVE.finditer(text):
        shapes = _SHAPE.findall(match["shapes"])
        if match["start"] and match["kind"] in ("all-gather", "collective-permute"):
            shapes = shapes[len(shapes) // 2 :]  # before them stand the operands
        for kind, dims in shapes:
            if kind in _SIZES:
                sizes = [int(size) for size in dims.split(",") if size]
                found[match["kind"]] += _SIZES[kind] * int(np.prod(sizes, dtype=np.int64))
    return dict(found)


def _explained(error: Exception) -> BadInputError:
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
        raise error
    used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", text)
    amount = f": the compiler needs {used[1]} of {used[2]}" if used else f": {text[:200]}"
    return BadInputError(f"does not fit{amount}")


def is_oom(error: Any) -> bool:
    """Whether `compiled` refused for want of memory."""
    return str(error).startswith("does not fit")
