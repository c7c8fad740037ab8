"""Estimates of the TPU compiler for real steps; skipped without libtpu."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bert_jax.config.model import ModelConfig
from bert_jax.nn.tensor_names import abstract_params
from bert_jax.training.state import parameter_count
from support.commands import ROOT, environment, refused
from support.preflight import write_small

pytestmark = [
    pytest.mark.tpu_backend,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed (extra tpu): there is no compiler for TPUs",
    ),
]
PARAMETERS = parameter_count(
    abstract_params(ModelConfig(preset="bert-tiny", vocab_size=2048).resolved())
)  # the vocabulary of the config, 1024, is padded


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_small(tmp_path)


def preflight(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tpu", "preflight", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )


def planned(*arguments: str | Path) -> dict[str, Any]:
    result = preflight(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_compiler_estimates_time_memory_and_collectives(config: Path) -> None:
    plan = planned(config, "--accelerator", "v3-8")
    (phase,) = plan["phases"]
    assert phase["estimate"] in ("operations", "cycles")
    assert phase["granted_gib"] == 15.48
    # Goldens of libtpu 0.0.42; another version may differ a little.
    assert phase["seconds_by_operations"] == pytest.approx(0.00078, rel=0.15)
    assert phase["temp_gib"] < 0.06
    assert phase["flops_per_step"] == pytest.approx(phase["model_flops_per_step"], rel=0.15)
    # One gradient, in float32, and some sums.
    assert phase["collective_bytes"] == pytest.approx(4 * PARAMETERS, rel=0.05)
    assert set(phase["collectives"]) == {"all-reduce"}
    hours = 900 * phase["seconds_per_step"] / 3600
    assert plan["hours"] == pytest.approx(hours, abs=0.01)
    assert plan["chip_hours"] == pytest.approx(4 * hours, abs=0.1)


def test_sharded_state_is_gathered_once_and_moves_no_activations(config: Path) -> None:
    replicated = planned(config, "--accelerator", "v3-8")["phases"][0]
    sharded = planned(config, "--accelerator", "v3-8", "--parallel.shard_state", "true")
    (phase,) = sharded["phases"]
    assert phase["argument_gib"] < 0.6 * replicated["argument_gib"]
    assert set(phase["collectives"]) <= {"all-reduce", "reduce-scatter", "all-gather"}
    assert phase["collectives"]["all-gather"] <= 1.05 * 4 * PARAMETERS


def test_bert_base_stays_as_fast_and_small_as_it_is(config: Path) -> None:
    """Goldens of libtpu 0.0.42, for 4 Cloud TPUs (v2-32) and batches of 256 x 128."""
    (phase,) = planned(
        *(config, "--accelerator", "v2-32", "--quick", "--parallel.shard_state", "true"),
        *("--model.preset", "bert-base", "--model.vocab_size", "30522"),
    )["phases"]
    assert phase["seconds_by_operations"] < 0.034
    assert phase["temp_gib"] < 0.75
    assert phase["argument_gib"] < 0.1
    # One gradient in float32, of parts or whole; parameters in half of that, but for embeddings.
    assert phase["collectives"]["all-reduce"] < 4 * 110_258_690
    assert phase["collectives"]["all-gather"] < 2 * 1.3 * 110_258_690
    assert set(phase["collectives"]) == {"all-reduce", "all-gather", "reduce-scatter"}


def test_long_rows_of_bert_base_and_bert_large_stay_as_fast_and_small_as_they_are(
    config: Path,
) -> None:
    """Goldens of libtpu 0.0.42, for batches of 256 x 512: 4 Cloud TPUs, and 16 of v3."""
    for preset, accelerator, seconds, temporary in (
        ("bert-base", "v2-32", 0.130, 2.2),
        ("bert-large", "v3-128", 0.062, 2.3),
    ):
        (phase,) = planned(
            *(config, "--accelerator", accelerator, "--quick", "--parallel.shard_state", "true"),
            *("--model.preset", preset, "--model.vocab_size", "30522"),
            *("--phases", "[{length: 512, steps: 100, batch_size: 256}]"),
        )["phases"]
        assert phase["seconds_by_operations"] < seconds
        assert phase["temp_gib"] < temporary


def test_other_chips_have_both_estimates_and_the_attention_kernel(config: Path) -> None:
    (phase,) = planned("--config", config, "--accelerator", "v5litepod-16")["phases"]
    assert 0 < phase["seconds_by_operations"] < 0.1
    assert 0 < phase["seconds_by_cycles"] < 0.1
    assert phase["granted_gib"] == 15.75
    (plain,) = planned(config, "--accelerator", "v5e-16", "--model.attention", "xla")["phases"]
    assert phase["bytes_per_step"] < plain["bytes_per_step"]


def test_a_kernel_that_does_not_compile_is_refused(config: Path) -> None:
    result = preflight(
        *(config, "--accelerator", "v2-8", "--model.attention", "pallas", "--model.layers", "1"),
        "--quick",
    )
    refused(result, 78, "--model.attention xla")


def test_a_step_that_does_not_fit_is_refused_with_remedies(config: Path) -> None:
    result = preflight(
        *(config, "--accelerator", "v5e-1", "--model.layers", "1", "--quick"),
        *("--phases", "[{length: 128, steps: 5, batch_size: 65536}]"),
    )
    refused(result, 78, "does not fit", "15.75G", "--train.accumulate", "not enough alone")
