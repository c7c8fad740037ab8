"""What the TPU compiler's figures say about time and memory; none of them is a measurement.

A compiled program has two estimates of its time, and each leaves something out:

* **operations** (``optimal_seconds``): the sum over all operations of the larger of arithmetic /
  peak and bytes / bandwidth. It knows neither tiling nor precision, and copies that run ahead count
  as if nothing overlapped. A Pallas kernel costs what it states.
* **cycles** (the sum of ``estimated_cycles``, divided by the clock): knows tiling and precision;
  a Pallas kernel costs nothing.

So the larger one is used. Neither contains the links between chips: that time is added, see
`exchange_seconds`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bert_jax.config.accelerators import Slice

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclass(frozen=True)
class StepTime:
    """Estimated seconds of a step.

    Attributes:
        operations: By the operation model.
        cycles: By the cycles.
        exchange: Of the exchanges between chips.
    """

    operations: float
    cycles: float
    exchange: float

    @property
    def source(self) -> str:
        """Return which estimate is used: operations or cycles."""
        return "operations" if self.operations >= self.cycles else "cycles"

    @property
    def seconds(self) -> float:
        """Return the larger estimate and the exchange.

        They add up: the gradients are exchanged at once, after the backward pass.
        """
        return max(self.operations, self.cycles) + self.exchange


def cycle_seconds(text: str, slice_: Slice) -> float:
    """Return the time of a program by its cycles; the body of a loop counts once.

    Args:
        text: HLO of the compiled program.
        slice_: The devices.
    """
    return sum(map(int, _CYCLES.findall(text))) / (slice_.generation.clock_ghz * 1e9)


def operation_seconds(optimal_seconds: float, by_cycles: float) -> float:
    """Return the time by the operation model.

    The compiler subtracts a second for every operation that its model does not know, such as
    rng-bit-generator; they are added again.

    Args:
        optimal_seconds: As the compiler returns it.
        by_cycles: The other estimate, in seconds: it tells how many seconds are missing.
    """
    unknown = max(0, round(by_cycles - optimal_seconds), math.ceil(-optimal_seconds))
    return optimal_seconds + unknown


def exchange_seconds(collectives: Mapping[str, int], shards: int, slice_: Slice) -> float:
    """Return the time of the exchanges between chips, without any overlap.

    N chips in a torus send over all their links in both directions. A reduce-scatter or an
    all-gather of S bytes moves S x (N - 1) / N of them into and out of every chip, an all-reduce
    twice as much. The devices of a chip share its links and add their gradients first. A slice
    without links around its edges takes up to twice as long.

    Source: https://jax-ml.github.io/scaling-book/sharding, for the bidirectional ring.

    Args:
        collectives: Kind -> bytes that a device receives, from `hlo_analysis.collectives`.
        shards: Devices that share a state: a reduce-scatter returns one of so many parts.
        slice_: The devices.
    """
    moved = (
        2 * collectives.get("all-reduce", 0)
        + shards * collectives.get("reduce-scatter", 0)
        + collectives.get("all-gather", 0)
    )
    one_way = slice_.generation.links_gb * 1e9 / 2
    return moved * (slice_.chips - 1) / slice_.chips / one_way


def memory_gib(memory: Any, slice_: Slice) -> float:
    """Return the memory that a program needs on a device, GiB.

    Arguments and temporary arrays together count a donated state twice where the result is written
    next to it. The compiler's own peak does not, but from v4 on it includes on-chip memory.
    """
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    if slice_.generation.name in ("v2", "v3"):
        total = memory.peak_memory_in_bytes or total
    return total / 2**30
