"""A rehearsal of a preempted slice, with everything in a bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime import status_files
from support import gcs_emulator, rehearsal
from support.commands import ROOT, inspected, run_process, write_config

STEPS = 20
OPTIONS = ("--workers", "2", "--preempt-at", "12")


@pytest.fixture(scope="module")
def storage() -> Iterator[tuple[str, dict[str, str]]]:
    with gcs_emulator.emulator() as url_and_variables:
        yield url_and_variables


@pytest.mark.full
def test_a_preempted_run_in_a_bucket_ends_with_the_same_bits(
    config_base: RunConfig,
    store_dir: Path,
    two_processes: Path,
    storage: tuple[str, dict[str, str]],
    tmp_path: Path,
) -> None:
    url, variables = storage
    bucket = gcs_emulator.make_bucket(url, "rehearsal")
    gcs_emulator.upload(url, store_dir, f"{bucket}/stores/small")
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
    result = rehearsal.run(file, *OPTIONS, **variables, TMPDIR=str(machines))
    assert result.returncode == 0, result.stderr
    assert "preempting the slice" in result.stderr
    assert list(machines.iterdir()) == []
    names = set(gcs_emulator.names(url, run))
    assert {"launch/SHA256SUMS", "status/DONE.json", "config.yaml", "metrics.jsonl"} <= names
    assert {f"logs/attempt-000{n}/worker-{w}.log" for n in (1, 2) for w in (0, 1)} <= names
    assert f"checkpoints/{STEPS}/meta/metadata" in names
    assert any(name.startswith("cache/") for name in names), "compiled again on every slice"
    log = gcs_emulator.read(url, f"{run}/logs/attempt-0002/worker-0.log").decode()
    assert "resuming at step" in log
    assert "stores/" in log, "the store is read from the disk of the machine"
    lines = [
        json.loads(line) for line in gcs_emulator.read(url, f"{run}/metrics.jsonl").splitlines()
    ]
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    assert "4 x cpu, 2 process(es)" in log
    _check_copy(gcs_emulator.download(url, run, tmp_path / "copy"), two_processes)
    logs = subprocess.run(
        [sys.executable, "-m", "tpu", "logs", run, "--worker", "1"],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert logs.stdout.startswith("worker-1: "), logs.stderr
    guessed = run_process("inspect", run, "--json", **variables)
    assert json.loads(guessed.stdout)["step"] == STEPS


def _check_copy(copy: Path, expected: Path) -> None:
    assert [attempt.ended for attempt in status_files.read_status(copy)[0].attempts] == [
        "preempted",
        "done",
    ]
    assert json.loads((copy / "status/DONE.json").read_text("utf-8"))["step"] == STEPS
    assert inspected(copy)["digest"] == inspected(expected)["digest"]
