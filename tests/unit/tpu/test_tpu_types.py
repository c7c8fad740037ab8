"""Accelerators and slices, compared with the chips that JAX knows."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from jax.experimental.pallas import tpu as pltpu

from bert_jax.config.accelerators import (
    Accelerator,
    accelerators,
    find_slice,
    has_attention_kernel,
    peak_flops,
    slices,
)
from bert_jax.runtime.errors import BadArgumentsError
from support.commands import ROOT, environment

GENERATIONS = [accelerator for accelerator in accelerators() if accelerator.topologies]


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
def test_speeds_are_those_of_jax(generation: Accelerator) -> None:
    info = pltpu.get_tpu_info_for_chip(pltpu.ChipVersion(generation.name), 1)
    peak = info.bf16_ops_per_second * generation.cores_per_chip
    # Google's page says 123 TFLOP/s of a v3 chip, JAX 140.
    assert generation.peak == pytest.approx(peak, rel=0.13 if generation.name == "v3" else 0.02)
    bandwidth = info.mem_bw_bytes_per_second * generation.cores_per_chip
    # Of v3 Google says 900 GB/s and JAX 825, of v5p 2,765 and 2,460.
    tolerance = 0.13 if generation.name in ("v3", "v5p") else 0.05
    assert generation.bandwidth == pytest.approx(bandwidth, rel=tolerance)
    # JAX takes GB for GiB on v2; the compiler has a little less than the chip on v5e.
    memory = info.hbm_capacity_bytes * generation.cores_per_chip / 2**30
    rel = 0.08 if generation.name == "v2" else 0.02
    assert generation.memory_gib == pytest.approx(memory, rel=rel)


def test_an_accelerator_is_recognized_by_its_device_kind() -> None:
    kinds = [kind for accelerator in accelerators() for kind in accelerator.device_kinds]
    assert len(kinds) == len(set(kinds))
    assert peak_flops("TPU v2") == 23e12
    assert peak_flops("TPU v5 lite") == peak_flops("TPU v5e") == 197e12
    assert has_attention_kernel("TPU v6 lite")
    assert not has_attention_kernel("TPU v3")
    assert not has_attention_kernel("cpu")


@pytest.mark.parametrize(
    ("name", "topology", "chips", "hosts", "devices"),
    [
        ("v2-8", "2x2", 4, 1, 8),
        ("v3-32", "4x4", 16, 4, 32),
        ("v3-128", "8x8", 64, 16, 128),
        ("v4-8", "2x2x1", 4, 1, 4),
        ("v5p-16", "2x2x2", 8, 2, 8),
        ("v5litepod-1", "1x1", 1, 1, 1),
        ("v5e-8", "2x4", 8, 1, 8),
        ("v6e-16", "4x4", 16, 4, 16),
        ("v5litepod-256", "16x16", 256, 64, 256),
    ],
)
def test_names_count_cores_or_chips(
    name: str, topology: str, chips: int, hosts: int, devices: int
) -> None:
    slice_ = find_slice(name)
    assert (slice_.topology, slice_.chips, slice_.hosts, slice_.devices) == (
        *(topology, chips, hosts, devices),
    )


def test_a_topology_has_the_chips_of_its_name() -> None:
    for slice_ in slices().values():
        assert math.prod(map(int, slice_.topology.split("x"))) == slice_.chips
        assert slice_.hosts * 4 == slice_.chips or slice_.hosts == 1


def test_an_unknown_slice_is_refused_with_similar_ones() -> None:
    with pytest.raises(BadArgumentsError, match=r"'v3-33'; did you mean v3-32"):
        find_slice("v3-33")


def test_the_command_lists_them() -> None:
    command = [sys.executable, "-m", "tpu", "types"]
    run = {"cwd": ROOT, "env": environment(), "capture_output": True, "text": True}
    listed = subprocess.run(command, check=True, **run).stdout
    assert "v5litepod-256" in listed
    (row,) = json.loads(subprocess.run([*command, "v3-32", "--json"], check=True, **run).stdout)
    assert row["hbm_gib_per_device"] == 16
    assert row["usd_per_hour_spot"] == 9.6
    wrong = subprocess.run([sys.executable, "-m", "tpu", "tips"], check=False, **run)
    assert wrong.returncode == 64
    assert "did you mean 'types'" in wrong.stderr
