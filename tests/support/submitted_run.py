"""A run submitted to the fake cloud over HTTP; tests write the reports of the hosts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_jax.runtime import status_files
from bert_jax.runtime.status_files import TRAINING, Heartbeat
from support.commands import invoke
from support.scripted_cloud import ScriptedCloud
from support.waiting import wait_until
from tpu.config import TpuConfig
from tpu.launch.provider import ENDPOINT, connect
from tpu.launch.request import Launch, name_of
from tpu.launch.submit import submit
from tpu.launch.watch import Watcher
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays

ZONES = ("us-west4-a", "us-east5-b")
PROJECT = "my-project"


@pytest.fixture
def cloud() -> Iterator[ScriptedCloud]:
    """Return a fake cloud that grants nothing by itself and has no delays."""
    fake_cloud = ScriptedCloud(Delays(0.0, None, 0.0, 0.0, 0.0))
    yield fake_cloud
    fake_cloud.close()


@pytest.fixture
def url(cloud: ScriptedCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with fake_rest.serve(cloud) as address:
        monkeypatch.setenv(ENDPOINT, address)
        yield address


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    run = str(tmp_path / "run")
    tpu = TpuConfig(accelerator="v4-16", zones=ZONES, project=PROJECT)
    return Launch(name_of(run), run, PROJECT, tpu, "0" * 64)


@pytest.fixture
def watcher(launch: Launch, url: str) -> Watcher:
    """Return the watcher of a submitted run."""
    provider = connect(PROJECT)
    return Watcher(submit(launch, {}, provider), provider, back_off=(0.0, 0.0))


def tick(watcher: Watcher) -> str:
    """Observe once, act on the decision and return the status."""
    observation, decision = watcher.observe()
    watcher.act(observation, decision)
    return decision.status


def granted(cloud: ScriptedCloud, watcher: Watcher) -> None:
    cloud.advance(watcher.launch.name)
    wait_until(lambda: cloud.state(watcher.launch.name) == "ACTIVE")


def hosts_say(watcher: Watcher, attempt: int, step: int, **values: Any) -> None:
    for worker in range(2):
        fields = {"state": TRAINING, "step": step} | values
        status_files.write_heartbeat(watcher.run, Heartbeat(worker, attempt, **fields))


def gone(cloud: ScriptedCloud, watcher: Watcher) -> None:
    wait_until(lambda: cloud.state(watcher.launch.name) == "")


def creations(cloud: ScriptedCloud) -> int:
    return sum(rpc == "CreateQueuedResource" for rpc, _ in cloud.calls)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "tpu", *arguments]


def tpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    return invoke("tpu", *arguments, GOOGLE_CLOUD_PROJECT=PROJECT)
