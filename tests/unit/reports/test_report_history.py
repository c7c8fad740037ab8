"""What a report says of starts, stops and costs."""

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
from bert_jax.runtime.sessions import sessions
from bert_jax.runtime.status_files import Attempt
from pipelines.commands.pretrain import pretrain
from pipelines.commands.report import write
from support.nan_batches import Poison, layout_of
from support.report_page import EVIL, bare, curve, facts, figure, read, shown, table


def test_restarts_and_rollbacks_are_marked(
    rolling: RunConfig, poison: Poison, tmp_path: Path
) -> None:
    config = replace(rolling, train=replace(rolling.train, log_every=1))
    folder = Path(config.run_dir)
    poison(7)
    pretrain(config, layout_of(config))
    # As if killed after step 20, with nothing saved since step 10.
    for step in (15, 20):
        shutil.rmtree(folder / "checkpoints" / str(step))
    poison()
    pretrain(config, layout_of(config))
    other = bare(tmp_path / "other", config, '{"step": 1, "loss": 2.5}\n')
    write([folder, other], tmp_path / "two.html")
    rows = [row[-3:] for row in table(read(tmp_path / "two.html"), "run")]
    assert rows[-2:] == [["restarts", "1", "0"], ["batches skipped", "1", "0"]]
    write([folder], folder / "report.html")
    root = read(folder / "report.html")
    happened = [row[1] for row in table(root, "when")[1:]]
    assert happened == [
        "began",
        "rolled back to step 5",
        "ended; its last line is of step 20",
        "went on from step 10; 10 steps were done again",
        "ended; its last line is of step 20",
        "skipped as not finite: batch 7",
    ]
    ids = {element.get("id", "") for element in figure(root, "Loss nats").iter()}
    assert any(one.endswith("mark-restart-10") for one in ids)
    assert any(one.endswith("mark-skipped") for one in ids)
    assert len(curve(root, "Loss nats", "0-train")) == 19


def test_a_stop_is_told_from_a_crash(config: RunConfig) -> None:
    """Between two lines of the log: the record of the stop alone says how far it came."""
    config = replace(config, train=replace(config.train, log_every=10, eval_every=0))
    folder = Path(config.run_dir)

    def told(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError, match="step 3 of 20 is saved"):
        pretrain(config, layout_of(config), told)
    saved = folder / "checkpoints/3"
    (stopped,) = sessions(folder)
    assert (stopped.devices, stopped.kind) == (jax.device_count(), "cpu")
    assert (stopped.starts, stopped.reached, stopped.stopped) == ((0,), 3, 3)
    assert stopped.ended >= saved.stat().st_mtime
    write([folder], folder / "report.html")
    root = read(folder / "report.html")
    assert facts(root)["state"] == "stopped: it was told to, at step 3"
    assert [row[1] for row in table(root, "when")[1:]] == [
        "began",
        "told to stop; step 3 is saved",
    ]
    pretrain(config, layout_of(config))
    write([folder], folder / "report.html")
    root = read(folder / "report.html")
    assert facts(root)["state"] == "complete"
    assert [row[1] for row in table(root, "when")[1:]] == [
        "began",
        "told to stop; step 3 is saved",
        "went on from step 3",
        "ended; its last line is of step 20",
    ]
    ids = {element.get("id", "") for element in figure(root, "Loss nats").iter()}
    assert any(one.endswith("mark-preempted-3") for one in ids)
    assert not any("mark-restart" in one for one in ids)
    spent = sum(8 * (one.ended - one.begun) / 3600 for one in sessions(folder))
    said = re.search(r"Cost so far: (\S+) device-hours on cpu: .*an estimate", shown(root))
    assert said
    assert float(said[1]) == pytest.approx(spent, rel=0.05)


def test_slices_their_preemptions_and_what_they_cost(
    config_base: RunConfig, tmp_path: Path
) -> None:
    lines = "".join(f'{{"step": {n}, "loss": {n}.5}}\n' for n in range(1, 21))
    run = bare(tmp_path / "run", replace(config_base, data=DataConfig("gone")), lines)
    tpu = {"accelerator": "v5litepod-16", "slices": 2, "capacity": "spot"}
    launch = run / "launch"
    launch.mkdir()
    hour = 3600.0
    first = Attempt(1, "s", "us-west4-a", -1, 1e9, 1e9 + 60, "preempted", 1e9 + 60 + hour, 12)
    status_files.record(run, first)
    status_files.record(
        run, Attempt(2, "s", EVIL, 12, 1e9 + 2 * hour, ended="capacity", ended_at=2e9)
    )
    for project, words in (
        ("mine", "32.00 chip-hours on 2 x v5litepod-16 (32 chips, spot), some 7.68 USD"),
        ("emulated", "it cost nothing"),
    ):
        (launch / "launch.json").write_text(json.dumps({"tpu": tpu, "project": project}))
        write([run], run / "report.html")
        root = read(run / "report.html")
        assert words in shown(root)
    assert table(root, "slice")[1:] == [
        ["1", "us-west4-a", "preempted", "1 h 00 min", "32.00"],
        ["2", EVIL, "capacity", "0.0 s", "0.00"],
    ]
    ids = {element.get("id", "") for element in figure(root, "Loss nats").iter()}
    assert any(one.endswith("mark-preempted-12") for one in ids)
    assert "slice 1: preempted at step 12" in shown(root)
    assert not (run / "control").exists(), "a report writes nothing but itself"
    (launch / "launch.json").write_text("[")
    write([run], run / "report.html")
