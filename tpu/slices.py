"""Cloud TPU slices: chips, hosts, memory, speed.

Speeds, memory and topologies: docs.cloud.google.com/tpu/docs (pages v2 to v6e, read in November
2026); the bandwidths of v2 are those that JAX assumes. Prices: SkyPilot's catalogue of Google's
lists for one region, an estimate that changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from bert_jax.runtime.errors import BadArgumentsError

_ONE_HOST = 8  # v5e and v6e chips
PRICES_AS_OF = "2026-11, one US region, from SkyPilot's catalogue"


@dataclass(frozen=True)
class Generation:
    """A kind of chip.

    Attributes:
        name: As people call it.
        prefix: Of the names of its slices.
        cores: TensorCores of a chip, which the names count where `counts_cores`.
        counts_cores: Whether v3-32 has 32 cores or 32 chips.
        devices: JAX devices of a chip.
        hbm: GiB of a chip.
        peak: bfloat16 FLOP/s of a chip.
        bandwidth: Bytes per second between a chip and its memory.
        topologies: Chips of every slice that can be had, by number.
        runtime: Software version of the TPU VM.
        prices: USD for a chip-hour, on demand and spot; None where they are not known.
        timed: Whether the compiler tells the time of its programs.
    """

    name: str
    prefix: str
    cores: int
    counts_cores: bool
    devices: int
    hbm: float
    peak: float
    bandwidth: float
    topologies: Mapping[int, str]
    runtime: str
    prices: tuple[float, float] | None
    timed: bool


_FLAT = {4: "2x2", 16: "4x4", 64: "8x8", 128: "8x16", 256: "16x16", 512: "16x32", 1024: "32x32"}
_CUBES = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
}
_LITE = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}


def _up_to(topologies: Mapping[int, str], chips: int) -> dict[int, str]:
    return {count: name for count, name in topologies.items() if count <= chips}


GENERATIONS = (
    Generation(
        "v2", "v2-", 2, True, 2, 16, 46e12, 716e9, _up_to(_FLAT, 256), "tpu-ubuntu2204-base",
        None, True,
    ),
    Generation(
        "v3", "v3-", 2, True, 2, 32, 123e12, 900e9, _FLAT, "tpu-ubuntu2204-base",
        (2.00, 0.60), True,
    ),
    Generation(
        "v4", "v4-", 2, True, 1, 32, 275e12, 1200e9, _CUBES, "tpu-ubuntu2204-base",
        (3.22, 0.92), False,
    ),
    Generation(
        "v5e", "v5litepod-", 1, False, 1, 15.75, 197e12, 819e9, _LITE, "v2-alpha-tpuv5-lite",
        (1.20, 0.24), False,
    ),
    Generation(
        "v5p", "v5p-", 2, True, 1, 95, 459e12, 2765e9, _CUBES, "v2-alpha-tpuv5",
        (4.20, 0.84), True,
    ),
    Generation(
        "v6e", "v6e-", 1, False, 1, 32, 918e12, 1638e9, _LITE, "v2-alpha-tpuv6e",
        (2.70, 0.54), False,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """Chips that are had together.

    Attributes:
        name: Of the accelerator type.
        generation: Of its chips.
        chips: How many.
        topology: How they are wired, such as 4x4.
    """

    name: str
    generation: Generation
    chips: int
    topology: str

    @property
    def devices(self) -> int:
        """JAX devices."""
        return self.chips * self.generation.devices

    @property
    def hosts(self) -> int:
        """TPU VMs: four chips each; eight on the v5e and v6e slice of eight."""
        if self.chips == _ONE_HOST and not self.generation.counts_cores:
            return 1
        return max(1, self.chips // 4)

    @property
    def hbm(self) -> float:
        """GiB of memory of a device."""
        return self.generation.hbm / self.generation.devices

    @property
    def peak(self) -> float:
        """bfloat16 FLOP/s of a device."""
        return self.generation.peak / self.generation.devices

    @property
    def bandwidth(self) -> float:
        """Bytes per second between a device and its memory."""
        return self.generation.bandwidth / self.generation.devices


def slices() -> dict[str, Slice]:
    """All accelerator types by name."""
    found = {}
    for generation in GENERATIONS:
        for chips, topology in generation.topologies.items():
            count = chips * generation.cores if generation.counts_cores else chips
            name = f"{generation.prefix}{count}"
            found[name] = Slice(name, generation, chips, topology)
    return found


def find(name: str) -> Slice:
    """The slice of that accelerator type; ``v5e-16`` is taken for ``v5litepod-16``.

    Raises:
        BadArgumentsError: There is none.
    """
    known = slices()
    given = name.strip().lower().replace("v5e-", "v5litepod-")
    if given in known:
        return known[given]
    near = get_close_matches(given, known, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise BadArgumentsError(
        f"unknown accelerator {name!r}{hint} (python -m tpu types lists all; v2 to v4 and v5p count"
        " cores, of which a chip has two, v5e and v6e chips)"
    )
