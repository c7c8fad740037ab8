"""A rehearsal whose run folder and store are in a bucket: nothing is shared but Cloud Storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import gcs
from bert_jax.config import Phase, RunConfig
from conftest import ROOT, bert_jax, write_config

STEPS = 20


@pytest.fixture(scope="module")
def storage() -> Iterator[tuple[str, dict[str, str]]]:
    with gcs.emulator() as found:
        yield found


def test_a_preempted_run_in_a_bucket_goes_on_from_it(
    config_base: RunConfig, store_dir: Path, storage: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    url, variables = storage
    bucket = gcs.make_bucket(url, "rehearsal")
    gcs.upload(url, store_dir, f"{bucket}/stores/small")
    run = f"{bucket}/runs/small"
    config = replace(
        config_base,
        run_dir=run,
        data=replace(config_base.data, store=f"{bucket}/stores/small"),
        train=replace(config_base.train, eval_every=0, hang_timeout=60),
        phases=(Phase(length=32, steps=STEPS),),
    )
    file = write_config(config, tmp_path)
    machines = tmp_path / "machines"
    machines.mkdir()
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "tpu",
            "local",
            "--config",
            str(file),
            "--workers",
            "2",
            "--preempt_at",
            "12",
        ],
        cwd=ROOT,
        env=os.environ | variables | {"TMPDIR": str(machines)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "the slice is taken away, as was asked" in result.stderr
    assert list(machines.iterdir()) == []
    names = set(gcs.names(url, run))
    assert {"launch/SHA256SUMS", "status/DONE.json", "config.yaml", "metrics.jsonl"} <= names
    assert {f"logs/attempt-000{n}/worker-{w}.log" for n in (1, 2) for w in (0, 1)} <= names
    assert f"checkpoints/{STEPS}/meta/metadata" in names
    assert any(name.startswith("cache/") for name in names), "compiled again on every slice"
    log = gcs.read(url, f"{run}/logs/attempt-0002/worker-0.log").decode()
    assert "resuming at step" in log
    assert "stores/" in log, "the store is read from the disk of the machine"
    lines = [json.loads(line) for line in gcs.read(url, f"{run}/metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    told = subprocess.run(
        [sys.executable, "-m", "tpu", "logs", run, "--worker", "1"],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.stdout.startswith("worker-1: "), told.stderr
    guessed = bert_jax("inspect", run, "--json", **variables)
    assert json.loads(guessed.stdout)["step"] == STEPS
