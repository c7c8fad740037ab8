"""Weights & Biases beside ``metrics.jsonl`` and TensorBoard: the package itself, offline."""

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
from support.commands import ROOT, environment, refused, run_process, write_config
from support.run_log import open_log
from tpu.config import SubmittedConfig

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def followed(config: RunConfig) -> RunConfig:
    return replace(config, wandb="books")


def test_a_package_that_is_absent_is_one_line(
    followed: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wandb").mkdir()  # as the package itself leaves behind
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BadInputError, match=r"pip install 'bert-jax\[wandb\]'"):
        trackers.require("books")
    trackers.require("")


def test_a_run_that_asks_for_it_does_not_begin_without(followed: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['wandb'] = None\n", "utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    config = write_config(followed, tmp_path)
    refused(run_process("pretrain", "--config", config, PYTHONPATH=path), 78, "bert-jax[wandb]")
    assert not Path(followed.run_dir).exists()


class Broken(ModuleType):
    """A wandb that begins and then fails."""

    offline, dir = False, "files"
    url = "https://example.org/run"

    def Settings(self, **_: object) -> None:  # noqa: N802
        pass

    def init(self, **given: Any) -> Broken:
        assert given["resume"] == "allow"
        return self

    def define_metric(self, *_: object, **__: object) -> None:
        pass

    def log(self, values: dict[str, float]) -> None:
        if values["step"] == 2:
            raise ConnectionError(f"refused {KEY}")
        assert values["step"] < 2


def test_its_failure_ends_no_training_and_tells_no_key(
    followed: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Broken("wandb"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_SILENT", "true")
    with closing(open_log(followed)) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 1.0})
    assert [line["step"] for line in metrics.read(Path(followed.run_dir))] == [1, 2, 3]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "Weights & Biases: https://example.org/run",
        "Weights & Biases: ConnectionError: refused …; training continues without it",
    ]


def test_slices_refuse_it_before_they_cost_anything(followed: RunConfig) -> None:
    with pytest.raises(BadInputError, match="wandb is not installed on slices"):
        SubmittedConfig(run_dir="gs://b/run", phases=followed.phases, wandb="books")


def pretrained(config: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, in which the package may warn."""
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
    """What the package wrote, in the order of its sittings: a log in the format of LevelDB.

    7 bytes, then blocks of 32 KiB; a record is a checksum, its length, its kind (whole, first,
    middle, last part) and the data.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        content, place, whole = path.read_bytes(), 7, b""
        while place + 7 <= len(content):
            left = 32768 - place % 32768
            if left < 7:
                place += left
                continue
            size, kind = (
                int.from_bytes(content[place + 4 : place + 6], "little"),
                content[place + 6],
            )
            data = content[place + 7 : place + 7 + size]
            found = int.from_bytes(content[place : place + 4], "little")
            assert zlib.crc32(bytes([kind]) + data) == found
            whole += data
            place += 7 + size
            if kind in (1, 4):
                yield Record.FromString(whole)
                whole = b""


def history(run: Path) -> list[dict[str, Any]]:
    """The points, without what the package adds."""
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
def test_a_resumed_run_is_one_run(followed: RunConfig, tmp_path: Path) -> None:
    file, run = write_config(followed, tmp_path), Path(followed.run_dir)
    begun = pretrained(file, tmp_path, "--train.steps", "10")
    assert begun.returncode == 0, begun.stderr
    assert "Weights & Biases: offline; wandb sync" in begun.stderr
    resumed = pretrained(file, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming at step 10" in resumed.stderr
    assert "wandb:" not in resumed.stderr
    runs = [found.run for found in records(run) if found.WhichOneof("record_type") == "run"]
    identity = (run / trackers.WANDB_ID).read_text("utf-8").strip()
    assert len(runs) == 2
    assert {(found.run_id, found.project, found.display_name) for found in runs} == {
        (identity, "books", "run")
    }
    settings = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert settings["model"]["hidden_size"] == followed.model.hidden_size
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
    assert KEY not in begun.stderr + resumed.stderr


def test_steps_that_are_done_again_are_logged_again(
    followed: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a process of its own, which ends with the package's."""
    file = write_config(followed, tmp_path)
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
    names = environment(
        1, **variables, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"
    )
    command = [sys.executable, "-c", script, str(file)]
    done = subprocess.run(command, cwd=ROOT, env=names, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "continues without it" not in done.stderr
    assert history(Path(followed.run_dir)) == [
        *({"step": step, "loss": float(step)} for step in (1, 2, 3, 4)),
        {"step": 3, "skipped": 1},
        {"step": 4, "loss": 40.0},
    ]
    defined = [
        found.metric for found in records(Path(followed.run_dir)) if found.HasField("metric")
    ]
    assert ("*", "step") in {
        (metric.glob_name or metric.name, metric.step_metric) for metric in defined
    }
