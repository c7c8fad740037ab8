"""The table of TPU slices, against what JAX knows of the chips."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from jax.experimental.pallas import tpu as pltpu

from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.training.flops import PEAK_FLOPS
from support.commands import ROOT, environment
from tpu.slices import GENERATIONS, Generation, find, slices

# JAX's names of the chips, and of the devices that they appear as.
CHIPS = {
    "v2": (pltpu.ChipVersion.TPU_V2, "TPU v2"),
    "v3": (pltpu.ChipVersion.TPU_V3, "TPU v3"),
    "v4": (pltpu.ChipVersion.TPU_V4, "TPU v4"),
    "v5e": (pltpu.ChipVersion.TPU_V5E, "TPU v5 lite"),
    "v5p": (pltpu.ChipVersion.TPU_V5P, "TPU v5"),
    "v6e": (pltpu.ChipVersion.TPU_V6E, "TPU v6 lite"),
}


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
def test_speeds_are_those_that_jax_knows(generation: Generation) -> None:
    version, kind = CHIPS[generation.name]
    known = pltpu.get_tpu_info_for_chip(version, 1)
    peak = known.bf16_ops_per_second * generation.cores
    # Google's page says 123 TFLOP/s of a v3 chip, JAX 140.
    assert generation.peak == pytest.approx(peak, rel=0.13 if generation.name == "v3" else 0.02)
    assert PEAK_FLOPS[kind] == pytest.approx(generation.peak / generation.devices, rel=0.001)
    bandwidth = known.mem_bw_bytes_per_second * generation.cores
    # Of v3 Google says 900 GB/s and JAX 825, of v5p 2,765 and 2,460.
    near = 0.13 if generation.name in ("v3", "v5p") else 0.05
    assert generation.bandwidth == pytest.approx(bandwidth, rel=near)
    # Of v2 JAX takes GB for GiB; of v5e the compiler has a little less than there is.
    memory = known.hbm_capacity_bytes * generation.cores / 2**30
    assert generation.hbm == pytest.approx(memory, rel=0.08 if generation.name == "v2" else 0.02)


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
    found = find(name)
    assert (found.topology, found.chips, found.hosts, found.devices) == (
        *(topology, chips, hosts, devices),
    )


def test_a_topology_has_the_chips_of_its_name() -> None:
    for one in slices().values():
        sizes = [int(size) for size in one.topology.split("x")]
        product = 1
        for size in sizes:
            product *= size
        assert product == one.chips
        assert one.hosts * 4 == one.chips or one.hosts == 1


def test_an_unknown_slice_is_refused_with_what_is_near() -> None:
    with pytest.raises(BadArgumentsError, match=r"'v3-33'; did you mean v3-32"):
        find("v3-33")


def test_the_command_lists_them() -> None:
    command = [sys.executable, "-m", "tpu", "types"]
    run = {"cwd": ROOT, "env": environment(), "capture_output": True, "text": True}
    listed = subprocess.run(command, check=True, **run).stdout
    assert "v5litepod-256" in listed
    (one,) = json.loads(subprocess.run([*command, "v3-32", "--json"], check=True, **run).stdout)
    assert one["hbm_gib_per_device"] == 16
    assert one["usd_per_hour_spot"] == 9.6
    wrong = subprocess.run([sys.executable, "-m", "tpu", "tips"], check=False, **run)
    assert wrong.returncode == 64
    assert "did you mean 'types'" in wrong.stderr
