"""The benchmarks of the step run at the smallest sizes; their results there mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="extra parity is not installed")

from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.vocabulary import train_vocabulary
from support.commands import ROOT, environment


def run_benchmark(script: str, *options: str | Path, **variables: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, options)]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(1, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("contestant", ["bert-jax", "sdpa"])
def test_contestants_of_the_step_run(contestant: str) -> None:
    options = {
        "contestant": contestant,
        "dtype": "bfloat16",
        "size": "tiny",
        "length": 16,
        "batch": 2,
        "updates": 1,
    }
    assert json.loads(run_benchmark("step.py", "--child", json.dumps(options)).splitlines()[-1]) > 0


def test_rows_of_one_pair_and_packed_ones_are_measured(store: Store) -> None:
    options = ("--size", "tiny", "--length", "64", "--batch", "4", "--updates", "1")
    *_, alone, packed = run_benchmark("packing.py", store.folder, *options).splitlines()
    assert (alone.split("|")[1], packed.split("|")[1]) == (" one pair ", " packed ")
    assert all(0.5 < float(line.split("|")[2]) <= 1 for line in (alone, packed))


def test_a_batch_is_split_over_emulated_devices() -> None:
    *_, one, two = run_benchmark("scaling.py", "--emulated", "1", "2").splitlines()
    assert (one.split("|")[1].strip(), two.split("|")[1].strip()) == ("1", "2")


def test_sides_of_time_to_quality_train_and_are_scored(tmp_path: Path) -> None:
    text, tokenizer = ROOT / "docs/concepts.md", tmp_path / "tokenizer"
    lines = [line for line in text.read_text("utf-8").splitlines() if line]
    train_vocabulary("wordpiece", lines, 400, uncased=True).save(tokenizer)
    prepare([f"text:{text}"], tokenizer, tmp_path / "store", 0.1)
    rows = "text,label\nthe old man,a\nthe dog ran,b\n" * 8
    (tmp_path / "tasks/words").mkdir(parents=True)
    for name in ("train", "test"):
        (tmp_path / f"tasks/words/{name}.csv").write_text(rows, "utf-8")
    options = ["--size", "tiny", "--length", "16", "--batch", "4", "--minutes", "0.01"]
    options += [
        "--sides",
        "corpus",
        "transformers",
        "--names",
        "words",
        "--finetune-seeds",
        "1",
        "--dtype",
        "float32",
    ]
    options += ["--out", str(tmp_path / "out"), "--epochs", "1", "--finetune-length", "8"]
    options += ["--set", "transformers.short_rows=0.5"]
    arguments = (tmp_path / "store", tmp_path / "tasks", *options)
    table = run_benchmark("time_to_quality.py", *arguments, TORCHDYNAMO_DISABLE="1")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        *("corpus", "transformers")
    ]
    results = (tmp_path / "out/results.jsonl").read_text("utf-8").splitlines()
    for result in map(json.loads, results):
        assert result["updates"] >= 30
        assert 0 < result["mlm_loss"] < 10
        assert 0 <= result["scores"]["words"][0] <= 1
