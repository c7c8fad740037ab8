"""A run that was submitted to the cloud in memory, over HTTP; what hosts would say, tests say."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_jax.runtime import status_files
from bert_jax.runtime.status_files import TRAINING, Heartbeat
from support.commands import invoke
from tpu.config import TpuConfig
from tpu.launch.provider import ENDPOINT, connect
from tpu.launch.request import Launch, name_of
from tpu.launch.submit import submit
from tpu.launch.watch import Watcher
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays, FakeCloud

ZONES = ("us-west4-a", "us-east5-b")
PROJECT = "my-project"


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """Grants nothing by itself; the rest takes no time."""
    made = FakeCloud(Delays(0.0, None, 0.0, 0.0, 0.0))
    yield made
    made.close()


@pytest.fixture
def url(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with fake_rest.serve(cloud) as served:
        monkeypatch.setenv(ENDPOINT, served)
        yield served


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    run = str(tmp_path / "run")
    tpu = TpuConfig(accelerator="v4-16", zones=ZONES, project=PROJECT)
    return Launch(name_of(run), run, PROJECT, tpu, "0" * 64)


@pytest.fixture
def watcher(launch: Launch, url: str) -> Watcher:
    """Of a run that was submitted."""
    provider = connect(PROJECT)
    return Watcher(submit(launch, {}, provider), provider, back_off=(0.0, 0.0))


def tick(watcher: Watcher) -> str:
    """One look, and what follows from it; the status."""
    seen, decision = watcher.look()
    watcher.act(seen, decision)
    return decision.status


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def granted(cloud: FakeCloud, watcher: Watcher) -> None:
    cloud.advance(watcher.launch.name)
    until(lambda: cloud.state(watcher.launch.name) == "ACTIVE")


def hosts_say(watcher: Watcher, attempt: int, step: int, **values: Any) -> None:
    for worker in range(2):
        known = {"state": TRAINING, "step": step} | values
        status_files.beat(watcher.run, Heartbeat(worker, attempt, **known))


def gone(cloud: FakeCloud, watcher: Watcher) -> None:
    until(lambda: cloud.state(watcher.launch.name) == "")


def creations(cloud: FakeCloud) -> int:
    return sum(rpc == "CreateQueuedResource" for rpc, _ in cloud.calls)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "tpu", *arguments]


def tpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    return invoke("tpu", *arguments, GOOGLE_CLOUD_PROJECT=PROJECT)
