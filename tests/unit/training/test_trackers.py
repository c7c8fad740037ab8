"""Weights & Biases beside ``metrics.jsonl`` and TensorBoard, with the offline package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime import trackers
from bert_jax.runtime.errors import BadInputError
from bert_jax.training import metrics
from support.commands import ROOT, environment, refused, run_process, run_python, write_config
from support.run_log import open_log
from tpu.config import SubmittedConfig

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def tracked(config: RunConfig) -> RunConfig:
    return replace(config, wandb="books")


def test_a_missing_package_is_reported_in_one_line(
    tracked: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wandb").mkdir()  # as the package itself leaves behind
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BadInputError, match=r"pip install 'bert-jax\[wandb\]'"):
        trackers.require("books")
    trackers.require("")


def test_a_run_with_a_tracker_does_not_start_without_it(tracked: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['wandb'] = None\n", "utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    config = write_config(tracked, tmp_path)
    refused(run_process("pretrain", "--config", config, PYTHONPATH=path), 78, "bert-jax[wandb]")
    assert not Path(tracked.run_dir).exists()


class Broken(ModuleType):
    """A wandb that starts and then fails."""

    offline, dir = False, "files"
    url = "https://example.org/run"

    def Settings(self, **_: object) -> None:  # noqa: N802
        pass

    def init(self, **options: Any) -> Broken:
        assert options["resume"] == "allow"
        return self

    def define_metric(self, *_: object, **__: object) -> None:
        pass

    def log(self, values: dict[str, float]) -> None:
        if values["step"] == 2:
            raise ConnectionError(f"refused {KEY}")
        assert values["step"] < 2


def test_its_failure_ends_no_training_and_prints_no_key(
    tracked: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Broken("wandb"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_SILENT", "true")
    with closing(open_log(tracked)) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 1.0})
    assert [line["step"] for line in metrics.read(Path(tracked.run_dir))] == [1, 2, 3]
    assert capsys.readouterr().err.splitlines() == [
        "Weights & Biases: https://example.org/run",
        "Weights & Biases: ConnectionError: refused …; training continues without it",
    ]


def test_slices_refuse_it_before_they_cost_anything(tracked: RunConfig) -> None:
    with pytest.raises(BadInputError, match="wandb is not installed on slices"):
        SubmittedConfig(run_dir="gs://b/run", phases=tracked.phases, wandb="books")


def pretrained(config: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Train in a new process, in which the package may warn."""
    variables = {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "HOME": str(home)}
    command = [
        sys.executable,
        "-m",
        "pipelines.commands.cli",
        "pretrain",
        "--config",
        str(config),
        *options,
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(1, **variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def records(run: Path) -> Iterator[Any]:
    """Yield the records of the package in the order of sessions: logs in the format of LevelDB.

    7 bytes, then blocks of 32 KiB; a record is a checksum, its length, its kind (whole, first,
    middle, last part) and the data.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        content, offset, record = path.read_bytes(), 7, b""
        while offset + 7 <= len(content):
            remaining = 32768 - offset % 32768
            if remaining < 7:
                offset += remaining
                continue
            size, kind = (
                int.from_bytes(content[offset + 4 : offset + 6], "little"),
                content[offset + 6],
            )
            data = content[offset + 7 : offset + 7 + size]
            checksum = int.from_bytes(content[offset : offset + 4], "little")
            assert zlib.crc32(bytes([kind]) + data) == checksum
            record += data
            offset += 7 + size
            if kind in (1, 4):
                yield Record.FromString(record)
                record = b""


def history(run: Path) -> list[dict[str, Any]]:
    """Return the points without the fields of the package."""
    return [
        {
            ".".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
            if not "".join([item.key, *item.nested_key]).startswith("_")
        }
        for record in records(run)
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.mark.full
def test_a_resumed_run_is_one_run(tracked: RunConfig, tmp_path: Path) -> None:
    file, run = write_config(tracked, tmp_path), Path(tracked.run_dir)
    first = pretrained(file, tmp_path, "--train.steps", "10")
    assert first.returncode == 0, first.stderr
    assert "Weights & Biases: offline; upload with: wandb sync" in first.stderr
    resumed = pretrained(file, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming at step 10" in resumed.stderr
    assert "wandb:" not in resumed.stderr
    runs = [record.run for record in records(run) if record.WhichOneof("record_type") == "run"]
    identity = (run / trackers.WANDB_ID).read_text("utf-8").strip()
    assert len(runs) == 2
    assert {(r.run_id, r.project, r.display_name) for r in runs} == {(identity, "books", "run")}
    settings = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert settings["model"]["hidden_size"] == tracked.model.hidden_size
    points = [point for point in history(run) if "loss" in point]
    written = [line for line in metrics.read(run) if "loss" in line]
    assert [point["step"] for point in points] == list(range(1, 21))
    assert [point["loss"] for point in points] == [line["loss"] for line in written]
    without = pretrained(file, tmp_path, "--wandb=")
    assert without.returncode == 0, without.stderr
    assert "changed since" not in without.stderr
    assert "Weights & Biases" not in without.stderr
    for path in (path for path in run.rglob("*") if path.is_file()):
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in first.stderr + resumed.stderr


def test_steps_that_are_done_again_are_logged_again(
    tracked: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Use a new process, which ends together with that of the package."""
    file = write_config(tracked, tmp_path)
    script = """
import sys
from pathlib import Path
from pipelines.settings import run_config
from support.run_log import open_log
log = open_log(run_config(["--config", sys.argv[1]]))
for step in (1, 2, 3, 4):
    log.write(step, {"loss": float(step), "nsp_loss": None})
log.rewind(2, 0)
log.write(3, {"skipped": 1})
log.write(4, {"loss": 40.0})
log.close()
"""
    variables = {"WANDB_MODE": "offline", "HOME": str(tmp_path)}
    result = run_python(script, file, **variables)
    assert result.returncode == 0, result.stderr
    assert "continues without it" not in result.stderr
    assert history(Path(tracked.run_dir)) == [
        *({"step": step, "loss": float(step)} for step in (1, 2, 3, 4)),
        {"step": 3, "skipped": 1},
        {"step": 4, "loss": 40.0},
    ]
    defined = [
        record.metric for record in records(Path(tracked.run_dir)) if record.HasField("metric")
    ]
    assert ("*", "step") in {
        (metric.glob_name or metric.name, metric.step_metric) for metric in defined
    }
