"""A TPU VM with the real startup script, supervisord and host process, but scripted training."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bert_jax.runtime import status_files
from bert_jax.runtime.status_files import Heartbeat
from support.commands import ROOT
from tpu.host.host_info import Settings
from tpu.host.supervise import Supervisor
from tpu.launch.bundle import SUMS, upload
from tpu.rehearsal.fake_vm import FakeVm
from tpu.rehearsal.process_cleanup import processes

ATTRIBUTES = "/computeMetadata/v1/instance/attributes/"
# Follows the file ACTS, a line per process: "step N" does a step, "exit N" ends, "hang" and "sleep"
# wait for a signal.
TRAINER = """
import os, signal, sys, time
from pathlib import Path
home, acts = Path(sys.argv[1]), Path(os.environ["ACTS"])
processes = acts.read_text().splitlines()
acts.write_text("\\n".join(processes[1:]))
def end(*_):
    print("bert-jax: told to stop", flush=True)
    os._exit(75)
signal.signal(signal.SIGTERM, end)
for act in processes[0].split(", ") if processes else ["exit 0"]:
    word, _, value = act.partition(" ")
    print(act, flush=True)
    if word == "step":
        (home / "beat").write_text(value)
        time.sleep(0.3)
    elif word == "say":
        print(f"bert-jax: {value}", flush=True)
    elif word == "exit":
        sys.exit(int(value))
    elif word == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(60)
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        time.sleep(60)
"""
# `python -m tpu.host.training_process` runs the script above instead.
INSTEAD = """
import sys
from importlib.util import spec_from_file_location
from pathlib import Path
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "tpu.host.training_process":
            return spec_from_file_location(name, Path(__file__).parent / "scripted.py")
sys.meta_path.insert(0, Finder())
"""


def files(hang_timeout: int = 0) -> dict[str, bytes]:
    """Return a bundle with nothing to install."""
    content = {
        "host.json": Settings(2, hang_timeout, report=0.2).text().encode(),
        "config.yaml": b"",
    }
    lines = [f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in content.items()]
    return content | {SUMS: "".join(lines).encode()}


class Vm:
    """A VM whose training is scripted."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.run, self.acts = folder / "run", folder / "acts"
        self.run.mkdir()
        stub = folder / "stub"
        stub.mkdir()
        (stub / "scripted.py").write_text(TRAINER, "utf-8")
        (stub / "sitecustomize.py").write_text(INSTEAD, "utf-8")
        self.machine = FakeVm(
            folder / "vm",
            {},
            {
                "BERT_JAX_PYTHON": sys.executable,
                "PYTHONPATH": f"{stub}:{ROOT}",
                "ACTS": str(self.acts),
                **variables,
            },
        )
        self.sent(files())

    def sent(self, bundle: dict[str, bytes], attempt: int = 1) -> None:
        """Put a launch into the run folder and its hash into the metadata."""
        upload(bundle, self.run)
        attributes = {
            "startup-script": (ROOT / "tpu/host/startup.sh").read_text("utf-8"),
            "bert-jax-run": str(self.run),
            "bert-jax-spec": "s",
            "bert-jax-attempt": str(attempt),
            "bert-jax-manifest": hashlib.sha256(bundle[SUMS]).hexdigest(),
            "agent-worker-number": "0",
            "worker-network-endpoints": "a:b:127.0.0.1,a:b:127.0.0.2",
            "tpu-env": "ACCELERATOR_TYPE: 'v4-16'\n",
        }
        for name, value in attributes.items():
            self.machine.metadata[ATTRIBUTES + name] = value

    def script(self, *processes: str) -> None:
        """Set the acts of each training process; see TRAINER."""
        self.acts.write_text("\n".join(processes), "utf-8")

    def booted(self) -> None:
        self.machine.boot()

    def supervisor(self, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
        """Return the supervisor in this process, after the work of the startup script."""
        for name, value in self.machine.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("signal.signal", lambda number, handler: None)
        attributes = self.machine.home / "attributes"
        attributes.mkdir(parents=True, exist_ok=True)
        for path, value in self.machine.metadata.items():
            (attributes / path.removeprefix(ATTRIBUTES)).write_text(value, "utf-8")
        return Supervisor(self.machine.home, self.run / "launch")

    def beat(self) -> Heartbeat | None:
        heartbeats = status_files.read_status(self.run)[0].heartbeats
        return heartbeats[0] if heartbeats else None

    def until(self, condition: Callable[[Heartbeat], Any], seconds: float = 20.0) -> Heartbeat:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (beat := self.beat()) is not None and condition(beat):
                return beat
            time.sleep(0.05)
        log = self.machine.home / "host.log"
        boot = self.machine.home.parent / "vm.log"
        texts = [path.read_text("utf-8") for path in (log, boot) if path.exists()]
        raise AssertionError(f"{self.beat()}\n{''.join(texts)}")

    def log(self) -> str:
        return status_files.log_file(self.run, 1, 0).read_text("utf-8")

    def supervisors(self) -> list[int]:
        def line(pid: int) -> bytes:
            try:
                return Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                return b""

        return [pid for pid in processes(self.machine.home) if b"supervisord" in line(pid)]
