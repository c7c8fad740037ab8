"""Configs that preflight refuses before compilation, and its analysis of a compiled program."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import preflight
from support.commands import invoke, refused
from tpu.preflight.hlo_analysis import CompiledStep, collectives


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


def test_a_step_needs_its_arguments_and_what_it_computes() -> None:
    step = CompiledStep(1.0, "compiler", 2.0, 3.5, 1e9, 1e6, {}, 9e8)
    assert step.gib == pytest.approx(5.5)
