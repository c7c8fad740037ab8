"""A whole run as its user sees it: commands, folders, interruptions."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bert_jax import metrics
from bert_jax.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Phase,
    RunConfig,
    TrainConfig,
)
from conftest import ROOT, bert_jax, inspected, refused, small_disk, start, write_config
from pipelines.data.loader import PretrainingData
from pipelines.data.store import Store
from pipelines.folders import exclusive
from pipelines.settings import run_config

STEPS = 40


@pytest.fixture(scope="module")
def base(store_dir: Path) -> RunConfig:
    """Two phases, dropout on, many checkpoints; the embeddings make a save take a while."""
    return RunConfig(
        run_dir="unset",
        data=DataConfig(store=str(store_dir)),
        model=ModelConfig(preset="bert-tiny", vocab_size=5000, max_positions=64, dtype="float32"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5),
        train=TrainConfig(batch_size=4, log_every=1, eval_every=10, eval_batches=2),
        phases=(Phase(length=16, steps=24), Phase(length=32, steps=16, batch_size=2)),
        checkpoint=CheckpointConfig(every=4, keep=2),
    )


@pytest.fixture(scope="module")
def finished(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(replace(base, run_dir=str(folder / "run")), folder)
    result = bert_jax("pretrain", "--config", config)
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture
def arguments(base: RunConfig, tmp_path: Path) -> tuple[str, ...]:
    """Of the same run in a folder of its own."""
    config = write_config(replace(base, run_dir=str(tmp_path / "run")), tmp_path)
    return ("pretrain", "--config", str(config))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run where `arguments` expects it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_run_folder_holds_everything(finished: Path, base: RunConfig) -> None:
    lines = metrics.read(finished)
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, STEPS + 1))
    assert set(trained[0]) == {
        "step", "loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "grad_norm",
        "learning_rate", "tokens", "tokens_per_second", "mfu", "seconds",
    }  # fmt: skip
    assert trained[-1]["mfu"] is None
    assert [line["step"] for line in lines if "eval_loss" in line] == [10, 20, 30, 40]
    assert trained[-1]["tokens"] > trained[0]["tokens"] > 4 * 5
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["36", "40"]
    assert (finished / "tokenizer" / "sentencepiece.model").is_file()
    assert list((finished / "tensorboard").glob("events.*"))
    saved = yaml.safe_load((finished / "config.yaml").read_text("utf-8"))
    assert [phase["steps"] for phase in saved["phases"]] == [24, 16]
    assert saved["optimizer"]["learning_rate"] == base.optimizer.learning_rate


def test_a_finished_run_says_so(copied: Path, arguments: tuple[str, ...]) -> None:
    before = inspected(copied)
    result = bert_jax(*arguments)
    assert result.returncode == 0
    assert "resuming at step 40" in result.stderr
    assert f"is complete: {STEPS} of {STEPS} steps" in result.stderr
    assert inspected(copied) == before


def steps_done(run: Path) -> int:
    return max((line["step"] for line in metrics.read(run) if "loss" in line), default=0)


@pytest.mark.parametrize(
    "moment",
    [
        lambda run: steps_done(run) >= 3,
        lambda run: steps_done(run) >= 30,
    ],
    ids=["before the first checkpoint", "in the second phase"],
)
def test_killed_and_started_again_it_ends_with_the_same_bits(
    finished: Path, arguments: tuple[str, ...], tmp_path: Path, moment: Callable[[Path], bool]
) -> None:
    run = tmp_path / "run"
    process = start(*arguments)
    deadline = time.monotonic() + 120
    while not moment(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.communicate()
    reached = steps_done(run)
    assert reached < STEPS
    again = bert_jax(*arguments)
    assert again.returncode == 0, again.stderr
    assert inspected(run)["digest"] == inspected(finished)["digest"]
    # The log has every step once, with the same losses.
    losses = [(x["step"], x["loss"], x["tokens"]) for x in metrics.read(run) if "loss" in x]
    assert losses == [
        (x["step"], x["loss"], x["tokens"]) for x in metrics.read(finished) if "loss" in x
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_saves_and_goes_on_later(
    finished: Path, arguments: tuple[str, ...], tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = start(*arguments, "--checkpoint.every", "1000")
    while steps_done(run) < 7 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    (saved,) = (int(path.name) for path in (run / "checkpoints").iterdir())
    assert f"step {saved} of {STEPS} is saved" in said.splitlines()[-1]
    assert saved >= 7
    again = bert_jax(*arguments)
    assert again.returncode == 0, again.stderr
    assert f"resuming at step {saved}" in again.stderr
    assert "changed since step" in again.stderr
    assert "checkpoint.every: 1000 -> 4" in again.stderr
    assert inspected(run)["digest"] == inspected(finished)["digest"]


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(
    finished: Path, copied: Path, arguments: tuple[str, ...]
) -> None:
    newest = copied / "checkpoints" / "40"
    largest = max(newest.glob("params/**/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    result = bert_jax(*arguments)
    assert result.returncode == 0, result.stderr
    assert "checkpoint 40 is damaged" in result.stderr
    assert "resuming at step 36" in result.stderr
    assert inspected(copied)["digest"] == inspected(finished)["digest"]


def test_another_mesh_goes_on_with_a_run(
    copied: Path, arguments: tuple[str, ...], finished: Path
) -> None:
    """From one device to two that are mapped by pmap; the losses agree."""
    shutil.rmtree(copied / "checkpoints" / "40")
    result = bert_jax(*arguments, "--parallel.mapping", "pmap", devices=2)
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
    refused(bert_jax(*arguments, *change), 78, "run_dir", *words)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_store_is_refused(
    copied: Path, arguments: tuple[str, ...], corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    made = bert_jax(
        "prepare", "--corpus", f"text:{corpus}", "--tokenizer", tokenizer_dir, "--out", other,
        "--heldout", "0.3",
    )  # fmt: skip
    assert made.returncode == 0
    refused(bert_jax(*arguments, "--data.store", str(other)), 78, "store:", "->")


def test_the_learning_rate_the_log_and_the_length_may_change(
    copied: Path, arguments: tuple[str, ...]
) -> None:
    changes = ("--optimizer.learning_rate", "5e-4", "--train.log_every", "2", "--train.steps", "44")
    result = bert_jax(*arguments, *changes)
    assert result.returncode == 0, result.stderr
    assert "changed since step 40: optimizer.learning_rate: 0.001 -> 0.0005" in result.stderr
    assert "train.log_every: 1 -> 2" in result.stderr
    assert "16 steps of 2 x 32 -> " in result.stderr
    assert inspected(copied)["step"] == 44


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = (*arguments, "--checkpoint.every", "1")
    assert bert_jax(*arguments, "--train.steps", "2").returncode == 0
    result = bert_jax(*arguments, "--optimizer.learning_rate", "1e38")
    refused(result, 78, "became", "step", "optimizer.learning_rate")
    assert inspected(tmp_path / "run")["step"] == 2
    assert bert_jax(*arguments, "--train.steps", "6").returncode == 0
    assert inspected(tmp_path / "run")["step"] == 6


def test_a_run_that_diverges_is_stopped_by_its_evaluation(arguments: tuple[str, ...]) -> None:
    changes = ("--optimizer.learning_rate", "1e4", "--optimizer.warmup_steps", "0")
    result = bert_jax(*arguments, *changes, "--train.eval_every", "1", "--train.steps", "3")
    assert result.returncode in (0, 78)
    assert "Traceback" not in result.stderr


def test_two_processes_do_not_write_to_one_run(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with exclusive(tmp_path / "run"):
        refused(bert_jax(*arguments), 69, "another process", str(tmp_path / "run"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_before_the_first_step(arguments: tuple[str, ...], number: int) -> None:
    process = start(*arguments)
    assert process.stderr is not None
    assert "1 x cpu" in process.stderr.readline()  # it listens; then it has a step to compile
    process.send_signal(number)
    output = process.communicate(timeout=60)[1]
    assert process.returncode == 75, output
    assert "Traceback" not in output


def test_a_missing_device_is_one_line(arguments: tuple[str, ...]) -> None:
    for platform in ("tpu", "cuda", "none-such"):
        refused(bert_jax(*arguments, JAX_PLATFORMS=platform), 69, "JAX_PLATFORMS=cpu")


def test_evaluate_fill_mask_and_inspect_use_the_run(finished: Path, store_dir: Path) -> None:
    evaluated = bert_jax("evaluate", finished, "--json", devices=2)
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads(evaluated.stdout)
    assert {
        "mlm_loss", "mlm_accuracy", "perplexity", "nsp_loss", "nsp_accuracy",
        "constant_guess_accuracy", "unigram_entropy", "tokens",
    } <= set(found)  # fmt: skip
    assert 0 < found["constant_guess_accuracy"] < 1
    assert 1 < found["unigram_entropy"] < 4.3
    config = run_config(["--config", str(finished / "config.yaml")])
    batches = PretrainingData(Store(store_dir), config).heldout(config.phases[-1].length, 8)
    labels = [b.arrays["nsp_labels"][b.arrays["nsp_weights"] > 0] for b in batches]
    share = float(np.mean(np.concatenate(labels)))
    assert found["nsp_constant_guess_accuracy"] == pytest.approx(max(share, 1 - share))
    by_step = bert_jax("evaluate", finished / "checkpoints" / "40", "--store", store_dir, "--json")
    assert json.loads(by_step.stdout)["mlm_loss"] == pytest.approx(found["mlm_loss"], rel=1e-5)

    text = "The captain [MASK] a wooden [MASK]."
    filled = bert_jax("fill-mask", finished, text, "--top-k", "3", "--json")
    assert filled.returncode == 0, filled.stderr
    answers = json.loads(filled.stdout)
    assert [len(one) for one in answers] == [3, 3]
    assert answers[0][0]["probability"] >= answers[0][1]["probability"] > 0
    assert "%" in bert_jax("fill-mask", finished, text).stdout
    refused(bert_jax("fill-mask", finished, "No mask here."), 64, "[MASK]")
    refused(bert_jax("fill-mask", finished, "word " * 200 + "[MASK]"), 64, "tokens")

    shown = inspected(finished)
    assert shown["step"] == STEPS
    assert shown["config"]["model"]["vocab_size"] == 5000
    assert "bert/pooler/kernel" in bert_jax("inspect", finished).stdout


def test_inspect_knows_the_presets() -> None:
    result = bert_jax("inspect", "--preset", "bert-base", "--json")
    assert json.loads(result.stdout)["parameters"] == 110_106_428
    refused(bert_jax("inspect", "--preset", "bert-bse"), 64, "bert-base")
    refused(bert_jax("inspect"), 64, "--preset")


def test_a_model_that_is_none_is_refused(tmp_path: Path, finished: Path) -> None:
    refused(bert_jax("inspect", tmp_path), 78, "is no MODEL", "checkpoints/", "config.json")
    refused(bert_jax("inspect", finished / "checkpoints" / "7"), 78, "no checkpoint")
    mistyped = f"{str(finished)[:-1]}m"
    meant = f"{mistyped} does not exist; did you mean {finished}?"
    refused(bert_jax("inspect", mistyped), 78, meant)
    refused(bert_jax("report", mistyped), 78, meant)
    refused(bert_jax("inspect", tmp_path / "none"), 78, "none does not exist; give", "hf download")
    refused(bert_jax("evaluate", finished, "--store", tmp_path), 78, "not a finished token store")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("--train.batch_size", "3"), 78, ["3 sequences", "2 devices"]),
        (("--data.store", "/nowhere"), 78, ["/nowhere", "bert-jax prepare"]),
        (("--model.vocab_size", "10"), 78, ["model.vocab_size 10", "70 tokens"]),
        (("--run_dir", "/dev/null/run"), 78, ["/dev/null/run"]),
        (("--model.max_positions", "8"), 78, ["16", "model.max_positions 8"]),
    ],
)
def test_a_run_that_cannot_start_says_why(
    arguments: tuple[str, ...], change: tuple[str, ...], code: int, words: list[str]
) -> None:
    only = ("--phases", "[{length: 16, steps: 5}]")
    refused(bert_jax(*arguments, *only, *change, devices=2), code, *words)


def test_a_disk_that_fills_up_costs_no_step_that_was_saved(
    finished: Path, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "size=18m") as disk:
        here = ("--run_dir", f"{disk}/run")
        refused(bert_jax(*arguments, *here), 1, "disk is full", "is safe", "same command")
        kept = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
        assert [name for name in kept if name.isdigit()]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        again = bert_jax(*arguments, *here)
        assert again.returncode == 0, again.stderr
        assert "resuming at step" in again.stderr
        assert inspected(disk / "run")["digest"] == inspected(finished)["digest"]


def test_a_read_only_folder_is_said_in_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with small_disk(tmp_path / "locked", "ro") as disk:
        refused(bert_jax(*arguments, "--run_dir", f"{disk}/run"), 78, str(disk), "ead-only")


def test_debug_shows_where_an_error_came_from(arguments: tuple[str, ...]) -> None:
    result = bert_jax(*arguments, "--data.store", "/nowhere", "--debug")
    assert result.returncode == 78
    assert "Traceback" in result.stderr
    assert "read_ledger" in result.stderr


@pytest.mark.parametrize(
    "code", ["import pipelines.cli as c; c.usage()", "import pipelines.settings"]
)
def test_help_and_configs_need_no_jax(code: str) -> None:
    script = f"import sys; {code}; print({{'jax', 'numpy', 'flax'}} & set(sys.modules))"
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_the_second_start_takes_its_programs_from_the_cache(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    short = (*arguments, "--phases", "[{length: 16, steps: 2}]")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    assert bert_jax(*short, "--run_dir", tmp_path / "a", **cache).returncode == 0
    made = set((tmp_path / "cache").glob("jit_train-*"))
    assert made
    second = bert_jax(*short, "--run_dir", tmp_path / "b", JAX_LOGGING_LEVEL="DEBUG", **cache)
    assert second.returncode == 0
    assert "Persistent compilation cache hit for 'jit_train'" in second.stderr
    # Programs that take less than a second to compile are kept or not as the machine is loaded.
    assert set((tmp_path / "cache").glob("jit_train-*")) == made
    assert inspected(tmp_path / "a")["digest"] == inspected(tmp_path / "b")["digest"]
