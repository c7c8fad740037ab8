"""Reports show starts, stops and costs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from bert_jax.config.run import DataConfig, RunConfig
from bert_jax.runtime import status_files
from bert_jax.runtime.errors import PreemptedError
from bert_jax.runtime.sessions import read_sessions
from bert_jax.runtime.status_files import Attempt
from pipelines.pretraining import pretrain
from pipelines.reports.write import write
from support.commands import ROOT
from support.nan_batches import InjectNan, partitioner_for
from support.report_page import EVIL, curve, facts, figure, read, table, text_of, write_bare_run


def test_restarts_and_rollbacks_are_marked(
    rollback_config: RunConfig, inject_nan: InjectNan, tmp_path: Path
) -> None:
    config = replace(rollback_config, train=replace(rollback_config.train, log_every=1))
    folder = Path(config.run_dir)
    inject_nan(7)
    pretrain(config, partitioner_for(config))
    # As if killed after step 20, with nothing saved since step 10.
    for step in (15, 20):
        shutil.rmtree(folder / "checkpoints" / str(step))
    inject_nan()
    pretrain(config, partitioner_for(config))
    other = write_bare_run(tmp_path / "other", config, '{"step": 1, "loss": 2.5}\n')
    write([folder, other], tmp_path / "two.html")
    rows = [row[-3:] for row in table(read(tmp_path / "two.html"), "run")]
    assert rows[-2:] == [["restarts", "1", "0"], ["batches skipped", "1", "0"]]
    write([folder], folder / "report.html")
    root = read(folder / "report.html")
    events = [row[1] for row in table(root, "when")[1:]]
    assert events == [
        "started",
        "rolled back to step 5",
        "ended; the last logged step is 20",
        "resumed from step 10; 10 steps are repeated",
        "ended; the last logged step is 20",
        "skipped as not finite: batch 7",
    ]
    ids = {element.get("id", "") for element in figure(root, "Loss nats").iter()}
    assert any(name.endswith("mark-restart-10") for name in ids)
    assert any(name.endswith("mark-skipped") for name in ids)
    assert len(curve(root, "Loss nats", "0-train")) == 19


def test_a_stop_and_a_crash_are_distinguished(config: RunConfig) -> None:
    """Between two lines of the log: the record of the stop alone says how far it came."""
    config = replace(config, train=replace(config.train, log_every=10, eval_every=0))
    folder = Path(config.run_dir)

    def on_step(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError, match="step 3 of 20 is saved"):
        pretrain(config, partitioner_for(config), on_step)
    saved = folder / "checkpoints/3"
    (stopped,) = read_sessions(folder, [])
    assert (stopped.devices, stopped.device_kind) == (jax.device_count(), "cpu")
    assert (stopped.first_step, stopped.last_step, stopped.ending) == (0, 3, "stop")
    assert stopped.ended >= saved.stat().st_mtime
    write([folder], folder / "report.html")
    root = read(folder / "report.html")
    assert facts(root)["state"] == "stopped: on request, at step 3"
    assert [row[1] for row in table(root, "when")[1:]] == [
        "started",
        "stopped on request; step 3 is saved",
    ]
    pretrain(config, partitioner_for(config))
    write([folder], folder / "report.html")
    root = read(folder / "report.html")
    assert facts(root)["state"] == "complete"
    assert [row[1] for row in table(root, "when")[1:]] == [
        "started",
        "stopped on request; step 3 is saved",
        "resumed from step 3",
        "ended; the last logged step is 20",
    ]
    ids = {element.get("id", "") for element in figure(root, "Loss nats").iter()}
    assert any(name.endswith("mark-preempted-3") for name in ids)
    assert not any("mark-restart" in name for name in ids)
    spent = sum(8 * (s.ended - s.started) / 3600 for s in read_sessions(folder, []))
    cost = re.search(r"Cost so far: (\S+) device-hours on cpu: .*an estimate", text_of(root))
    assert cost
    assert float(cost[1]) == pytest.approx(spent, rel=0.05)


def test_slices_preemptions_and_costs(config_base: RunConfig, tmp_path: Path) -> None:
    lines = "".join(f'{{"step": {n}, "loss": {n}.5}}\n' for n in range(1, 21))
    run = write_bare_run(tmp_path / "run", replace(config_base, data=DataConfig("gone")), lines)
    tpu = {"accelerator": "v5litepod-16", "slices": 2, "capacity": "spot"}
    launch = run / "launch"
    launch.mkdir()
    hour = 3600.0
    first = Attempt(1, "s", "us-west4-a", -1, 1e9, 1e9 + 60, "preempted", 1e9 + 60 + hour, 12)
    status_files.write_attempt(run, first)
    status_files.write_attempt(
        run, Attempt(2, "s", EVIL, 12, 1e9 + 2 * hour, ended="capacity", ended_at=2e9)
    )
    for project, words in (
        ("mine", "32.00 chip-hours on 2 x v5litepod-16 (32 chips, spot), about 7.68 USD"),
        ("emulated", "free of charge"),
    ):
        (launch / "launch.json").write_text(json.dumps({"tpu": tpu, "project": project}))
        write([run], run / "report.html")
        root = read(run / "report.html")
        assert words in text_of(root)
    assert table(root, "slice")[1:] == [
        ["1", "us-west4-a", "preempted", "1 h 00 min", "32.00"],
        ["2", EVIL, "capacity", "0.0 s", "0.00"],
    ]
    ids = {element.get("id", "") for element in figure(root, "Loss nats").iter()}
    assert any(name.endswith("mark-preempted-12") for name in ids)
    assert "slice 1: preempted at step 12" in text_of(root)
    assert not (run / "control").exists(), "a report writes nothing but itself"
    (launch / "launch.json").write_text("[")
    write([run], run / "report.html")


@pytest.mark.parametrize("name", ["pretrained", "finetuned"])
def test_a_run_of_an_earlier_version_has_a_report_without_sessions(
    name: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(ROOT / "tests/golden/runs" / name, tmp_path / name))
    write([folder], folder / "report.html")
    root = read(folder / "report.html")
    assert not read_sessions(folder, [])
    assert "sessions.jsonl" in text_of(root)
    assert len(table(root, "checkpoint")) > 1
    assert len(curve(root, "Loss nats", "0-train")) > 1
