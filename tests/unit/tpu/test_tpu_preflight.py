"""Configs that preflight refuses before compilation, and its analysis of a compiled program."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bert_jax.config.accelerators import find_slice, slices
from support import preflight
from support.commands import invoke, refused
from tpu.preflight.estimates import (
    StepTime,
    cycle_seconds,
    exchange_seconds,
    memory_gib,
    operation_seconds,
)
from tpu.preflight.hlo_analysis import collectives


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return preflight.write_small(tmp_path)


def test_bad_input_is_one_line(config: Path, tmp_path: Path) -> None:
    refused(invoke("tpu", "preflight", config), 64, "--accelerator")
    refused(
        invoke("tpu", "preflight", config, "--accelerator", "v9-8"),
        64,
        "unknown accelerator 'v9-8'",
    )
    pmap = invoke("tpu", "preflight", config, "--accelerator", "v3-8", "--parallel.mapping", "pmap")
    refused(pmap, 78, "parallel.mapping: pmap")
    lstm = invoke("tpu", "preflight", config, "--accelerator", "v3-8", "--model.encoder", "lstm")
    refused(lstm, 78, "model.encoder: lstm")
    refused(
        invoke("tpu", "preflight", tmp_path / "no.yaml", "--accelerator", "v3-8"), 78, "no.yaml"
    )


def test_collectives_are_counted_with_their_shapes() -> None:
    text = """
  %all-reduce.1 = (f32[12,768]{1,0:T(8,128)}, /*index=1*/bf16[4]{0}) all-reduce(%a, %b)
  ROOT %all-gather.2 = f32[2,3]{1,0:T(8,128)(2,1)} all-gather(%c), dimensions={0}
  %x = f32[] get-tuple-element(%all-reduce.1), index=0
  %all-reduce-start.3 = s32[5]{0} all-reduce-start(%d)
  %all-gather-start.4 = (f32[1,3]{1,0}, f32[8,3]{1,0}) all-gather-start(%e), dimensions={0}
"""
    assert collectives(text) == {"all-reduce": 4 * 12 * 768 + 8 + 20, "all-gather": 24 + 96}


def test_a_step_takes_the_larger_estimate_and_the_exchange() -> None:
    time = StepTime(operations=0.010, cycles=0.012, exchange=0.003)
    assert (time.source, time.seconds) == ("cycles", pytest.approx(0.015))
    assert StepTime(0.010, 0.005, 0.0).source == "operations"


@pytest.mark.parametrize(
    ("optimal", "cycles", "expected"),
    [
        (0.0072, 0.0070, 0.0072),
        (-0.9928, 0.0070, 0.0072),  # one operation that the model does not know
        (-2.9928, 0.0, 0.0072),
        (-0.2, 1.9, 1.8),  # two of them in a long step
        (1.5, 1.4, 1.5),
    ],
)
def test_a_second_is_added_for_every_unknown_operation(
    optimal: float, cycles: float, expected: float
) -> None:
    assert operation_seconds(optimal, cycles) == pytest.approx(expected)


def test_cycles_are_divided_by_the_clock() -> None:
    text = 'backend_config={"estimated_cycles":"700000"} x {"estimated_cycles":"700000"}'
    assert cycle_seconds(text, find_slice("v2-8")) == pytest.approx(0.002)


def test_the_exchange_grows_with_the_chips_up_to_twice_the_bytes() -> None:
    def seconds(name: str, **bytes_of: int) -> float:
        received = {kind.replace("_", "-"): size for kind, size in bytes_of.items()}
        return exchange_seconds(received, 16, find_slice(name))

    gigabyte = 10**9
    one_way = 600e9  # of v5p: half of 1,200 GB/s
    # 8 and 1024 chips.
    assert seconds("v5p-16", all_reduce=gigabyte) == pytest.approx(2 * 1e9 * 7 / 8 / one_way)
    assert seconds("v5p-2048", all_reduce=gigabyte) == pytest.approx(2 * 1e9 / one_way, rel=0.01)
    # A sharded state: scatter, then gather.
    parts = seconds("v5p-2048", reduce_scatter=gigabyte // 16, all_gather=gigabyte)
    assert parts == pytest.approx(seconds("v5p-2048", all_reduce=gigabyte), rel=0.01)
    assert seconds("v5litepod-1", all_reduce=gigabyte) == 0


def test_every_slice_has_what_the_estimates_need() -> None:
    for slice_ in slices().values():
        chip = slice_.generation
        assert min(chip.clock_ghz, chip.links_gb, chip.granted_gib) > 0, chip.name
        assert chip.granted_gib <= 1.01 * slice_.hbm


def test_a_step_needs_its_arguments_and_what_it_computes() -> None:
    memory = SimpleNamespace(
        argument_size_in_bytes=2**30, temp_size_in_bytes=2**31, peak_memory_in_bytes=2**29
    )
    assert memory_gib(memory, find_slice("v5p-8")) == pytest.approx(3)
    # On v2 and v3 the compiler's peak leaves out what a donated state would count twice.
    assert memory_gib(memory, find_slice("v2-8")) == pytest.approx(0.5)
