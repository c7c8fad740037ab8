"""Accelerators and Cloud TPU slices; accelerators.yaml has the numbers and their sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bert_jax.runtime.errors import BadArgumentsError

_CHIPS_PER_HOST = 4  # of slices with several hosts


@dataclass(frozen=True)
class Accelerator:
    """A chip; its attributes are the keys of accelerators.yaml, which explains them."""

    name: str
    device_kinds: Sequence[str]
    peak_tflops: float
    devices_per_chip: int = 1
    attention_kernel: bool = False
    prefix: str = ""
    cores_per_chip: int = 1
    memory_gib: float = 0.0
    granted_gib: float = 0.0
    bandwidth_gb: float = 0.0
    links_gb: float = 0.0
    clock_ghz: float = 0.0
    chips_of_one_host: int = _CHIPS_PER_HOST
    topologies: Mapping[int, str] = field(default_factory=dict)
    runtime: str = ""
    compiler_options: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, float] | None = None
    price_zones: str = ""
    other_prices: str = ""
    zones: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_large_hosts(self) -> bool:
        """True if a single host may have more chips than each host of a larger slice."""
        return self.chips_of_one_host > _CHIPS_PER_HOST

    @property
    def peak(self) -> float:
        """Dense bfloat16 FLOP/s of a chip."""
        return self.peak_tflops * 1e12

    @property
    def bandwidth(self) -> float:
        """Bytes per second between a chip and its memory."""
        return self.bandwidth_gb * 1e9


@dataclass(frozen=True)
class Slice:
    """A Cloud TPU slice: chips that are rented together.

    Attributes:
        name: Accelerator type, such as v5litepod-16.
        generation: The kind of chip.
        chips: Number of chips.
        topology: How they are connected, such as 4x4.
    """

    name: str
    generation: Accelerator
    chips: int
    topology: str

    @property
    def devices(self) -> int:
        """Number of JAX devices."""
        return self.chips * self.generation.devices_per_chip

    @property
    def hosts(self) -> int:
        """Number of TPU VMs."""
        one_host = self.chips <= self.generation.chips_of_one_host
        return 1 if one_host else self.chips // _CHIPS_PER_HOST

    @property
    def hbm(self) -> float:
        """Memory of a device in GiB."""
        return self.generation.memory_gib / self.generation.devices_per_chip

    @property
    def peak(self) -> float:
        """bfloat16 FLOP/s of a device."""
        return self.generation.peak / self.generation.devices_per_chip

    @property
    def bandwidth(self) -> float:
        """Bytes per second between a device and its memory."""
        return self.generation.bandwidth / self.generation.devices_per_chip


@cache
def _content() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("accelerators.yaml").read_text("utf-8"))


@cache
def accelerators() -> tuple[Accelerator, ...]:
    """Return all accelerators."""
    return tuple(Accelerator(name, **entry) for name, entry in _content()["accelerators"].items())


def prices_as_of() -> str:
    """Return the date and the source of the prices."""
    return _content()["prices_as_of"]


def peak_flops(device_kind: str) -> float | None:
    """Return the dense bfloat16 FLOP/s of a JAX device; None if unknown."""
    accelerator = _of_kind(device_kind)
    return accelerator.peak / accelerator.devices_per_chip if accelerator else None


def has_attention_kernel(device_kind: str) -> bool:
    """Return True if the Pallas attention kernel runs on such a JAX device."""
    accelerator = _of_kind(device_kind)
    return accelerator is not None and accelerator.attention_kernel


def _of_kind(device_kind: str) -> Accelerator | None:
    return next((a for a in accelerators() if device_kind in a.device_kinds), None)


@cache
def slices() -> dict[str, Slice]:
    """Return all Cloud TPU slices by accelerator type."""
    by_name = {}
    for generation in accelerators():
        for chips, topology in generation.topologies.items():
            name = f"{generation.prefix}{chips * generation.cores_per_chip}"
            by_name[name] = Slice(name, generation, chips, topology)
    return by_name


def find_slice(name: str) -> Slice:
    """Return the slice of an accelerator type; ``v5e-16`` is read as ``v5litepod-16``.

    Raises:
        BadArgumentsError: The type is unknown.
    """
    normalized = name.strip().lower().replace("v5e-", "v5litepod-")
    if normalized in slices():
        return slices()[normalized]
    near = get_close_matches(normalized, slices(), n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise BadArgumentsError(
        f"unknown accelerator {name!r}{hint} (bert-jax tpu types lists all; the number in a name"
        " counts TensorCores: one or two per chip)"
    )
