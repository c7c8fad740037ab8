"""Folders that an earlier version wrote, through goldens: they resume, evaluate and convert."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from bert_jax.training import metrics
from support.commands import ROOT, invoke

GOLDEN = ROOT / "tests/golden/runs"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text("utf-8"))
MODELS = ("pretrained", "finetuned")
# The tests let XLA compile in another way than the program does, so bits differ. Losses of the same
# ten updates differ by 1e-7 then; without weight decay or dropout in attention by 2e-5.
CLOSE = {"rel": 0.0, "abs": 1e-5}
RESUMED = {"rel": 1e-5}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "runs"))


def command(folder: Path, *arguments: str) -> str:
    """The standard output of a command that ends well."""
    result = invoke(*arguments, folder=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def inspected(folder: Path, model: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(command(folder, "inspect", model, "--json"))
    return facts


def assert_inspected(folder: Path, model: str, expected: dict[str, Any]) -> None:
    facts = inspected(folder, model)
    names = ("architecture", "parameters", "step", "digest")
    assert {name: facts[name] for name in names} == {name: expected[name] for name in names}


def evaluated(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(command(folder, "evaluate", "pretrained", "--json"))
    return facts


def by_step(run: Path, name: str) -> dict[str, float]:
    return {str(line["step"]): line[name] for line in metrics.read(run) if name in line}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_commands_find_tokenizer_and_store_made(runs: Path) -> None:
    before = contents(runs)
    learned = ("--kind", "wordpiece", "--vocab-size", "80", "--out", "tokenizer")
    command(runs, "train-tokenizer", "--corpus", "text:stories.txt", *learned)
    made = ("--tokenizer", "tokenizer", "--held-out", "0.35", "--out", "store")
    command(runs, "prepare", "--corpus", "text:stories.txt", *made)
    assert contents(runs) == before


@pytest.mark.parametrize("model", MODELS)
def test_every_bit_of_the_parameters_is_read(runs: Path, model: str) -> None:
    assert_inspected(runs, model, EXPECTED[model])


def test_it_evaluates_to_the_same_numbers(runs: Path) -> None:
    assert evaluated(runs) == pytest.approx(EXPECTED["pretrained"]["evaluation"], **CLOSE)


def test_an_interrupted_run_resumes_to_its_end(runs: Path) -> None:
    expected, run = EXPECTED["resumed"], runs / "pretrained"
    before = metrics.read(run)
    command(runs, "pretrain", "--config", "pretrained/config.yaml")
    facts = inspected(runs, "pretrained")
    assert facts["step"] == expected["step"] == 20
    assert facts["parameters"] == expected["parameters"]
    assert metrics.read(run)[: len(before)] == before
    assert by_step(run, "loss") == pytest.approx(expected["losses"], **RESUMED)
    # Step 10 has one as well: the request to stop left it out.
    assert by_step(run, "eval_loss") == pytest.approx(expected["heldout_losses"], **RESUMED)
    assert evaluated(runs) == pytest.approx(expected["evaluation"], **RESUMED)


def test_a_fine_tuned_model_predicts_the_same(runs: Path) -> None:
    options = ("--input", "texts.csv", "--output", "predictions.jsonl")
    command(runs, "predict", "finetuned", *options)
    lines = (runs / "predictions.jsonl").read_text("utf-8").splitlines()
    for line, expected in zip(lines, EXPECTED["finetuned"]["predictions"], strict=True):
        facts = json.loads(line)
        assert facts["probabilities"] == pytest.approx(expected["probabilities"], **CLOSE)
        assert (facts["id"], facts["label"]) == (expected["id"], expected["label"])


def test_a_finished_fine_tuning_is_complete_and_can_be_extended(runs: Path) -> None:
    expected = EXPECTED["finetuned"]
    again = ("finetune", "classification", "--config", "finetuned/config.yaml")
    command(runs, *again)
    results = json.loads((runs / "finetuned/eval_results.json").read_text("utf-8"))
    assert results.pop("confusion") == expected["results"]["confusion"]
    others = {name: value for name, value in expected["results"].items() if name != "confusion"}
    assert results == pytest.approx(others, **CLOSE)
    assert_inspected(runs, "finetuned", expected)
    command(runs, *again, "--train.epochs", "9")
    assert inspected(runs, "finetuned")["step"] > expected["step"]


@pytest.mark.parametrize("model", MODELS)
def test_it_is_converted_and_back_without_a_changed_bit(runs: Path, model: str) -> None:
    command(runs, "convert", model, "hf", "--to", "hf")
    tensors = load_file(runs / "hf/model.safetensors")
    assert EXPECTED[model]["exported"] == {
        name: f"{list(tensor.shape)} {hashlib.sha256(tensor.tobytes()).hexdigest()[:16]}"
        for name, tensor in tensors.items()
    }
    command(runs, "convert", "hf", "back", "--to", "bert-jax")
    assert inspected(runs, "back")["digest"] == EXPECTED[model]["digest"]


@pytest.mark.parametrize("model", MODELS)
def test_a_report_is_made_of_it(runs: Path, model: str) -> None:
    command(runs, "report", model, "--output", "report.html")
    assert (runs / "report.html").is_file()
