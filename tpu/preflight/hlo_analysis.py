"""Estimates of the TPU compiler for a training step, on a computer without a TPU.

libtpu compiles for any topology. Its figures are estimates of cost models, see `estimates`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from bert_jax.config.accelerators import Slice
from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.errors import BadInputError, DeviceUnavailableError
from bert_jax.training.device_form import DeviceForm
from bert_jax.training.flops import training_flops
from bert_jax.training.partitioner import FSDP, Partitioner
from bert_jax.training.state import init_state
from bert_jax.training.step import Steps
from pipelines.data.batches.examples import batch_shape
from tpu.preflight.estimates import (
    StepTime,
    cycle_seconds,
    exchange_seconds,
    memory_gib,
    operation_seconds,
)

GIB = 2**30
_SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}
_COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<shapes>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter"
    r"|all-to-all|collective-permute)(?P<start>-start)?\(",
    re.MULTILINE,
)
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class TooLargeError(BadInputError):
    """A step needs more memory than a device has."""


@dataclass(frozen=True)
class CompiledStep:
    """A compiled step.

    Attributes:
        time: Estimated time of a step.
        gib: Memory of a device.
        argument_gib: Memory of a device for parameters, optimizer state and batch.
        temp_gib: Temporary memory of a device.
        flops: FLOP of a step on all devices, as the compiler counts.
        bytes: Memory traffic of a device per step.
        collectives: Kind -> bytes that a device receives per step.
        model_flops: FLOP of the matrix multiplications only, see `bert_jax.training.flops`.
    """

    time: StepTime
    gib: float
    argument_gib: float
    temp_gib: float
    flops: float
    bytes: float
    collectives: dict[str, int]
    model_flops: float

    @property
    def seconds(self) -> float:
        """Estimated time of a step."""
        return self.time.seconds


def topology(slice_: Slice) -> tuple[jax.Device, ...]:
    """Return descriptions of the devices of a slice, for the compiler.

    Raises:
        DeviceUnavailableError: libtpu is not installed, or another process uses it.
    """
    variables = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": slice_.name,
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    generation = slice_.generation
    options = dict(generation.compiler_options)
    if slice_.hosts == 1 and generation.has_large_hosts:
        options["chips_per_host_bounds"] = [*map(int, slice_.topology.split("x")), 1]
    try:
        description = topologies.get_topology_desc(
            f"{generation.name}:{slice_.topology}", "tpu", **options
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DeviceUnavailableError(
            f"the TPU compiler does not start: {reason}; run pip install 'bert-jax[tpu]', and stop"
            " other processes that use libtpu"
        ) from None
    return tuple(description.devices)


def compile_step(config: RunConfig, phase: Phase, slice_: Slice) -> CompiledStep:
    """Compile the training step of a phase.

    Raises:
        BadInputError: The batch cannot be divided, or there is no estimate for such a step.
        TooLargeError: The memory is too small.
        DeviceUnavailableError: libtpu is not installed, or another process uses it.
    """
    if config.parallel.mapping == "pmap":
        raise BadInputError("preflight cannot compile parallel.mapping: pmap; set it to jit")
    if config.model.encoder == "lstm":
        raise BadInputError(
            "preflight has no estimate for model.encoder: lstm, because the compiler counts the"
            " loop over the tokens once"
        )
    partitioner = Partitioner(topology(slice_), shard_state=config.parallel.shard_state)
    parts = config.train.accumulate
    partitioner.rows(phase.batch_size, parts)
    program = _compile(config, phase, partitioner)
    text = program.as_text()
    # The compiler counts the body of a loop once, so multiply by the parts of a batch here. Each
    # part includes the update, which overestimates a little.
    part, part_text = program, text
    if parts > 1:
        whole = replace(config, train=replace(config.train, accumulate=1))
        part = _compile(whole, replace(phase, batch_size=phase.batch_size // parts), partitioner)
        part_text = part.as_text()
    memory, cost = program.memory_analysis(), part.cost_analysis()
    flops, traffic = parts * float(cost["flops"]), parts * float(cost["bytes accessed"])
    cycles = cycle_seconds(part_text, slice_)
    operations = operation_seconds(float(cost["optimal_seconds"]), cycles)
    exchanged = collectives(text)
    exchange = exchange_seconds(exchanged, partitioner.mesh.shape[FSDP], slice_)
    tokens = phase.batch_size * phase.length
    predictions = phase.batch_size * config.data.predictions(phase.length)
    return CompiledStep(
        time=StepTime(parts * operations, parts * cycles, exchange),
        gib=memory_gib(memory, slice_),
        argument_gib=memory.argument_size_in_bytes / GIB,
        temp_gib=memory.temp_size_in_bytes / GIB,
        flops=flops * slice_.devices,
        bytes=traffic,
        collectives=exchanged,
        model_flops=training_flops(config.model, tokens, phase.batch_size, predictions),
    )


def honors_effort(slice_: Slice) -> bool:
    """Return whether the installed compiler makes another program with less effort.

    Raises:
        DeviceUnavailableError: As `topology`.
    """
    device = SingleDeviceSharding(topology(slice_)[0])
    square = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=device)
    lowered = jax.jit(lambda x, y: x @ y).lower(square, square)
    less: Any = {"exec_time_optimization_effort": -1.0}
    return lowered.compile().as_text() != lowered.compile(less).as_text()


def _compile(config: RunConfig, phase: Phase, partitioner: Partitioner) -> Any:
    steps = Steps.of(config)
    init_fn = partial(init_state, config.model, steps.optimizer, config.seed)
    state = DeviceForm.of(partitioner, steps, init_fn).abstract()
    shape = batch_shape(config.data, phase.length, phase.batch_size)
    batch = partitioner.abstract_batch(shape.fields())
    try:
        return partitioner.train_step(steps).lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        raise _out_of_memory(error) from None
    except Exception as error:
        # Not public, and no JaxRuntimeError: v2 and v3 have no bfloat16 products in kernels.
        if type(error).__name__ != "MosaicError":
            raise
        raise BadInputError(
            "the attention kernel does not compile for these chips; set --model.attention xla"
        ) from None


def collectives(text: str) -> dict[str, int]:
    """Return the bytes that a device receives by each kind of collective operation.

    Args:
        text: HLO of the compiled program. The body of a loop counts once. A reduce-scatter counts
            its result, not the data exchanged for it.
    """
    received: Counter[str] = Counter()
    for match in _COLLECTIVE.finditer(text):
        shapes = _SHAPE.findall(match["shapes"])
        if match["start"] and match["kind"] in ("all-gather", "collective-permute"):
            shapes = shapes[len(shapes) // 2 :]  # the first half are the operands
        for dtype, dims in shapes:
            if dtype in _SIZES:
                sizes = [int(size) for size in dims.split(",") if size]
                received[match["kind"]] += _SIZES[dtype] * int(np.prod(sizes, dtype=np.int64))
    return dict(received)


def _out_of_memory(error: Exception) -> TooLargeError:
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
        raise error
    used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", text)
    amount = f": the compiler needs {used[1]} of {used[2]}" if used else f": {text[:200]}"
    return TooLargeError(f"does not fit{amount}")
