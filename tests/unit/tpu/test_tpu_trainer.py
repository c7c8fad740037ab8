"""The training process of a host, in this process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime import distributed
from pipelines.settings import to_yaml
from tpu.host import training_process
from tpu.host.host_info import CONFIG, STEP_FILE, Settings


def test_a_host_reports_the_step_of_a_run_that_was_complete_already(
    config_base: RunConfig, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a preemption between the last step and the end."""
    run, attributes = shutil.copytree(trained, tmp_path / "run"), tmp_path / "attributes"
    attributes.mkdir()
    values = {"bert-jax-run": run, "bert-jax-spec": "s", "bert-jax-attempt": 2, "tpu-env": "",
              "agent-worker-number": 0, "worker-network-endpoints": "a"}  # fmt: skip
    for name, value in values.items():
        (attributes / name).write_text(f"{value}\n", "utf-8")
    (tmp_path / CONFIG).write_text(to_yaml(replace(config_base, run_dir=str(run))), "utf-8")
    (tmp_path / "host.json").write_text(Settings(1, 0).text(), "utf-8")
    first: list[Any] = distributed.devices()[:1]
    monkeypatch.setattr(distributed, "join", lambda silence: first)
    training_process.train(tmp_path, tmp_path)
    assert int((tmp_path / STEP_FILE).read_text("utf-8")) == config_base.steps
