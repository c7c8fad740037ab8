"""Installation on a TPU VM: the real pip and uv, with lock files, against PyPI.

Only Python itself is not downloaded: a link to the Python of the tests replaces it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import platform
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.status_files import ENDED
from support.commands import ROOT
from support.scripted_vm import ATTRIBUTES, Vm
from tpu.config import SubmittedConfig, TpuConfig
from tpu.launch.bundle import SUMS
from tpu.launch.request import prepare
from tpu.rehearsal.process_cleanup import processes

_NETWORK = ("UV_", "PIP_", "SSL_")  # how this computer reaches PyPI
VERSION = platform.python_version()
# Replaces the project: a host process that writes where it runs.
HOST = """
import json, sys
from pathlib import Path
import pinned
Path(sys.argv[1], "ran").write_text(json.dumps([sys.executable, pinned.VERSION]))
"""


def wheel(name: str, version: str, files: dict[str, str]) -> tuple[str, bytes]:
    """Return a wheel of these modules."""
    info = f"{name}-{version}.dist-info"
    content = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    lines = []
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        lines.append(f"{path},sha256={digest.decode()},{len(text)}")
    content[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    path = Path(f"{name}-{version}-py3-none-any.whl")
    return path.name, _zipped(content)


def _zipped(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def bundle(pinned: str, digest: str) -> dict[str, bytes]:
    """Return a bundle with a project of one module and a lock file of one line."""
    name, content = wheel(
        "bert_jax", "0.1.0", {"tpu/host/supervise.py": HOST, "tpu/__init__.py": ""}
    )
    supervisor = (ROOT / "tpu" / "lock" / "requirements.txt").read_text("utf-8")
    supervisor = supervisor[supervisor.index("supervisor==") :]
    pinned_line = f"{pinned} --hash=sha256:{digest}\n" if digest else f"{pinned}\n"
    # The lines of supervisor in the lock file are kept.
    end = supervisor.index("\n", supervisor.rindex("--hash", 0, supervisor.index("\nten")))
    files = {
        "python.txt": VERSION.encode(),
        "tools.txt": (ROOT / "tpu" / "lock" / "tools.txt").read_bytes(),
        "requirements.txt": (pinned_line + supervisor[: end + 1]).encode(),
        name: content,
    }
    return with_sums(files)


def with_sums(files: dict[str, bytes]) -> dict[str, bytes]:
    content = {name: text for name, text in files.items() if name != SUMS}
    lines = [f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in content.items()]
    return content | {SUMS: "".join(lines).encode()}


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    """A VM before its installation, with one additional package."""
    links = tmp_path / "links"
    links.mkdir()
    name, content = wheel("pinned", "1.5", {"pinned.py": "VERSION = '1.5'\n"})
    (links / name).write_bytes(content)
    network = {key: value for key, value in os.environ.items() if key.startswith(_NETWORK)}
    variables = network | {"UV_FIND_LINKS": str(links), "UV_SYSTEM_CERTS": "1", "PYTHONPATH": ""}
    scripted = Vm(tmp_path, **variables)
    del scripted.machine.variables["BERT_JAX_PYTHON"]
    folder = f"cpython-{VERSION}-linux-{platform.machine()}-gnu"
    link = scripted.machine.home / "python" / folder
    link.parent.mkdir(parents=True)
    link.symlink_to(sys.base_prefix)
    yield scripted
    scripted.machine.close()
    assert processes(scripted.machine.home) == []


def digest_of(vm: Vm) -> str:
    (path,) = (vm.machine.home.parent / "links").iterdir()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def booted(vm: Vm, seconds: float = 120) -> str:
    """Boot, wait for the end of the startup script and return its output."""
    vm.booted()
    (boot,) = vm.machine._boots
    boot.wait(timeout=seconds)
    output = (vm.machine.home / "startup.log").read_text("utf-8")
    if "No matching distribution found for uv" in output or "Failed to fetch" in output:
        pytest.skip("PyPI cannot be reached")
    return output


@pytest.mark.full
def test_everything_is_installed_from_lock_files_and_once(vm: Vm) -> None:
    vm.sent(bundle("pinned==1.5", digest_of(vm)))
    output = booted(vm)
    ran = vm.machine.home / "ran"
    end = time.monotonic() + 20
    while not ran.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert ran.exists(), output
    python, version = json.loads(ran.read_text("utf-8"))
    assert version == "1.5"
    assert python.startswith(f"{vm.machine.home}/env-")
    vm.machine.off()
    ran.unlink()
    # The second boot needs no network.
    vm.machine.variables |= {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    output = booted(vm)
    end = time.monotonic() + 20
    while not ran.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert ran.exists(), output


@pytest.mark.tpu_backend
@pytest.mark.timeout(900)
def test_a_real_launch_installs_and_trains(vm: Vm, config_base: RunConfig, tmp_path: Path) -> None:
    """Install the whole lock file, which takes a minute and 1.8 GB."""
    pytest.importorskip("libtpu", reason="part of make test-tpu")
    run = replace(config_base, run_dir=str(vm.run), phases=(Phase(length=32, steps=5),))
    values = {key.name: getattr(run, key.name) for key in fields(RunConfig)}
    tpu = TpuConfig("v4-8", ("us-central2-b",), "my-project")
    launch, files = prepare(SubmittedConfig(**values, tpu=tpu), devices=2, report=0.5)
    files["python.txt"] = VERSION.encode()
    shutil.rmtree(vm.run)
    vm.run.mkdir()
    vm.sent(with_sums(files))
    names = {"bert-jax-spec": launch.spec, "worker-network-endpoints": "a:b:127.77.0.1"}
    for name, value in names.items():
        vm.machine.metadata[f"{ATTRIBUTES}{name}"] = value
    vm.machine.variables |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_FORCE_TPU_INIT": "1",
        "JAX_COORDINATOR_BIND_ADDRESS": "127.77.0.1:8482",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    output = booted(vm, 500)
    assert "rror" not in output, output
    beat = vm.until(lambda beat: beat.state == ENDED, 120)
    assert (beat.step, beat.exit_code) == (5, 0), beat


@pytest.mark.full
@pytest.mark.parametrize(
    ("digest", "words"), [("0" * 64, "ash mismatch"), ("", "all requirements must have a hash")]
)
def test_a_package_with_a_wrong_or_missing_hash_is_not_installed(
    vm: Vm, digest: str, words: str
) -> None:
    vm.sent(bundle("pinned==1.5", digest))
    output = booted(vm)
    assert words in output, output
    assert not (vm.machine.home / "ran").exists()
    assert not vm.supervisors()
    log = (vm.run / "logs" / "attempt-0001" / "startup-0.log").read_text("utf-8")
    assert words in log
