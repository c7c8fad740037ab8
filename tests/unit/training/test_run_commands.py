"""A run and its commands: allowed changes, refusals, and commands that read the run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config.run import RunConfig
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.folders import exclusive
from pipelines.settings import run_config
from support.commands import inspected, invoke, refused, write_config

STEPS = 40


@pytest.fixture
def arguments(two_phases: RunConfig, tmp_path: Path) -> tuple[str, ...]:
    """Return the command of `two_phase_run` in another folder."""
    config = write_config(replace(two_phases, run_dir=str(tmp_path / "run")), tmp_path)
    return ("pretrain", "--config", str(config))


@pytest.fixture
def copied(two_phase_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run in the folder of `arguments`."""
    return Path(shutil.copytree(two_phase_run, tmp_path / "run"))


def test_a_finished_run_is_complete(copied: Path, arguments: tuple[str, ...]) -> None:
    before = inspected(copied)
    result = invoke(*arguments)
    assert result.returncode == 0
    assert "resuming at step 40" in result.stderr
    assert f"is complete: {STEPS} of {STEPS} steps" in result.stderr
    assert inspected(copied) == before


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(
    two_phase_run: Path, copied: Path, arguments: tuple[str, ...]
) -> None:
    newest = copied / "checkpoints" / "40"
    largest = max(newest.glob("params/**/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    result = invoke(*arguments)
    assert result.returncode == 0, result.stderr
    assert "checkpoint 40 is damaged" in result.stderr
    assert "resuming at step 36" in result.stderr
    assert inspected(copied)["digest"] == inspected(two_phase_run)["digest"]


def test_a_run_resumes_on_another_mesh(
    copied: Path, arguments: tuple[str, ...], two_phase_run: Path
) -> None:
    """Resume on two devices with pmap."""
    shutil.rmtree(copied / "checkpoints" / "40")
    result = invoke(*arguments, "--parallel.mapping", "pmap", devices=2)
    assert result.returncode == 0, result.stderr
    assert "resuming at step 36" in result.stderr
    assert "parallel.mapping: jit -> pmap" in result.stderr
    assert "2 x cpu" in result.stderr
    assert inspected(copied)["step"] == STEPS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--model.layers", "3"), ["model.layers: 2 -> 3"]),
        (("--model.vocab_size", "6000"), ["model.vocab_size: 5000 -> 6000"]),
        (("--seed", "1"), ["seed: 0 -> 1"]),
        (("--data.mlm_probability", "0.2"), ["data.mlm_probability: 0.15 -> 0.2"]),
        (("--optimizer.recipe", "bert2018"), ["optimizer.recipe: adamw -> bert2018"]),
        (
            ("--phases", "[{length: 16, steps: 20}, {length: 32, steps: 20, batch_size: 2}]"),
            ["24 steps of 4 x 16, 16 steps of 2 x 32", "20 steps of 4 x 16"],
        ),
        (("--train.steps", "30"), ["step 40 already", "30 steps"]),
        (
            ("--phases", "[{length: 16, steps: 24}, {length: 64, steps: 16}]"),
            ["24 steps of 4 x 16, 16 steps of 2 x 32", "16 steps of 4 x 64"],
        ),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    copied: Path, arguments: tuple[str, ...], change: tuple[str, ...], words: list[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    refused(invoke(*arguments, *change), 78, "run_dir", *words)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_store_is_refused(
    copied: Path, arguments: tuple[str, ...], corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    result = invoke(
        "prepare", "--corpus", f"text:{corpus}", "--tokenizer", tokenizer_dir, "--out", other,
        "--held-out", "0.3",
    )  # fmt: skip
    assert result.returncode == 0
    refused(invoke(*arguments, "--data.store", str(other)), 78, "store:", "->")


def test_the_learning_rate_the_log_and_the_length_may_change(
    copied: Path, arguments: tuple[str, ...]
) -> None:
    changes = ("--optimizer.learning_rate", "5e-4", "--train.log_every", "2", "--train.steps", "44")
    result = invoke(*arguments, *changes)
    assert result.returncode == 0, result.stderr
    assert "changed since step 40: optimizer.learning_rate: 0.001 -> 0.0005" in result.stderr
    assert "train.log_every: 1 -> 2" in result.stderr
    assert "16 steps of 2 x 32 -> " in result.stderr
    assert inspected(copied)["step"] == 44


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = (*arguments, "--checkpoint.every", "1")
    assert invoke(*arguments, "--train.steps", "2").returncode == 0
    result = invoke(*arguments, "--optimizer.learning_rate", "1e38")
    refused(result, 78, "became", "step", "optimizer.learning_rate")
    assert inspected(tmp_path / "run")["step"] == 2
    assert invoke(*arguments, "--train.steps", "6").returncode == 0
    assert inspected(tmp_path / "run")["step"] == 6


def test_a_run_that_diverges_is_stopped_by_its_evaluation(arguments: tuple[str, ...]) -> None:
    changes = ("--optimizer.learning_rate", "1e4", "--optimizer.warmup_steps", "0")
    result = invoke(*arguments, *changes, "--train.eval_every", "1", "--train.steps", "3")
    assert result.returncode in (0, 78)
    assert "Traceback" not in result.stderr


def test_two_processes_do_not_write_to_one_run(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with exclusive(tmp_path / "run"):
        refused(invoke(*arguments), 69, "another process", str(tmp_path / "run"))


def test_evaluate_fill_mask_and_inspect_use_the_run(two_phase_run: Path, store_dir: Path) -> None:
    evaluated = invoke("evaluate", two_phase_run, "--json", devices=2)
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads(evaluated.stdout)
    assert {
        "mlm_loss", "mlm_accuracy", "perplexity", "nsp_loss", "nsp_accuracy",
        "constant_guess_accuracy", "unigram_entropy", "tokens",
    } <= set(metrics)  # fmt: skip
    assert 0 < metrics["constant_guess_accuracy"] < 1
    assert 1 < metrics["unigram_entropy"] < 4.3
    config = run_config(["--config", str(two_phase_run / "config.yaml")])
    batches = PretrainingData(Store(store_dir), config).held_out(config.phases[-1].length, 8)
    labels = [b.arrays["nsp_labels"][b.arrays["nsp_weights"] > 0] for b in batches]
    fraction = float(np.mean(np.concatenate(labels)))
    assert metrics["nsp_constant_guess_accuracy"] == pytest.approx(max(fraction, 1 - fraction))
    by_step = invoke(
        "evaluate", two_phase_run / "checkpoints" / "40", "--store", store_dir, "--json"
    )
    assert json.loads(by_step.stdout)["mlm_loss"] == pytest.approx(metrics["mlm_loss"], rel=1e-5)

    text = "The captain [MASK] a wooden [MASK]."
    filled = invoke("fill-mask", two_phase_run, text, "--top-k", "3", "--json")
    assert filled.returncode == 0, filled.stderr
    answers = json.loads(filled.stdout)
    assert [len(candidates) for candidates in answers] == [3, 3]
    assert answers[0][0]["probability"] >= answers[0][1]["probability"] > 0
    assert "%" in invoke("fill-mask", two_phase_run, text).stdout
    refused(invoke("fill-mask", two_phase_run, "No mask here."), 64, "[MASK]")
    refused(invoke("fill-mask", two_phase_run, "word " * 200 + "[MASK]"), 64, "tokens")

    inspection = inspected(two_phase_run)
    assert inspection["step"] == STEPS
    assert inspection["config"]["model"]["vocab_size"] == 5000
    assert "bert/pooler/kernel" in invoke("inspect", two_phase_run).stdout


def test_inspect_shows_presets() -> None:
    result = invoke("inspect", "--preset", "bert-base", "--json")
    assert json.loads(result.stdout)["parameters"] == 110_106_428
    refused(invoke("inspect", "--preset", "bert-bse"), 64, "bert-base")
    refused(invoke("inspect"), 64, "--preset")


def test_a_path_without_a_model_is_refused(tmp_path: Path, two_phase_run: Path) -> None:
    refused(invoke("inspect", tmp_path), 78, "is not a MODEL", "checkpoints/", "config.json")
    refused(invoke("inspect", two_phase_run / "checkpoints" / "7"), 78, "no checkpoint")
    mistyped = f"{str(two_phase_run)[:-1]}m"
    meant = f"{mistyped} does not exist; did you mean {two_phase_run}?"
    refused(invoke("inspect", mistyped), 78, meant)
    refused(invoke("report", mistyped), 78, meant)
    refused(invoke("inspect", tmp_path / "none"), 78, "none does not exist; give", "hf:ORG/NAME")
    refused(
        invoke("evaluate", two_phase_run, "--store", tmp_path),
        78,
        "not a finished token store",
    )


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("--train.batch_size", "3"), 78, ["3 sequences", "2 devices"]),
        (("--data.store", "/nowhere"), 78, ["/nowhere", "bert-jax prepare"]),
        (("--model.vocab_size", "10"), 78, ["model.vocab_size 10", "70"]),
        (("--run_dir", "/dev/null/run"), 78, ["/dev/null/run"]),
        (("--model.max_positions", "8"), 78, ["16", "model.max_positions 8"]),
    ],
)
def test_a_run_that_cannot_start_names_the_reason(
    arguments: tuple[str, ...], change: tuple[str, ...], code: int, words: list[str]
) -> None:
    only = ("--phases", "[{length: 16, steps: 5}]")
    refused(invoke(*arguments, *only, *change, devices=2), code, *words)


def test_debug_shows_where_an_error_came_from(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments, "--data.store", "/nowhere", "--debug")
    assert result.returncode == 78
    assert "Traceback" in result.stderr
    assert "read_ledger" in result.stderr
