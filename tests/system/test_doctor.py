"""The checks of ``bert-jax doctor`` on this machine and on broken ones."""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from bert_jax.runtime.errors import BadInputError, DeviceUnavailableError, UserError
from pipelines.commands import checks
from pipelines.commands.checks import examined
from support import gcs_emulator
from support.commands import refused, run_process, small_disk

NAMES = [
    *("python", "packages", "devices", "compiler", "compile cache", "memory", "cores"),
    *("open files", "storage", "clock"),
]


def test_this_machine_passes(tmp_path: Path) -> None:
    result = run_process("doctor", "--run-dir", tmp_path / "not" / "yet")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line[9:22].strip() for line in lines] == NAMES
    assert not any(line.startswith("failure") for line in lines)
    assert "1 x cpu" in result.stdout
    assert f"jax {jax.__version__}" in result.stdout
    assert "\x1b" not in result.stdout
    assert (
        f"{tmp_path / 'not' / 'yet'} (will be created in {tmp_path}): written, read and deleted"
        in lines[-2]
    )
    assert lines[-1].endswith(f"that of {tmp_path / 'not' / 'yet'}")
    assert list(tmp_path.iterdir()) == []


def test_json_output_is_one_object(tmp_path: Path) -> None:
    result = run_process("doctor", "--json", "--run-dir", tmp_path)
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert [line["name"] for line in report["checks"]] == NAMES
    assert {"name", "state", "found", "remedy"} == report["checks"][0].keys()


def test_a_failure_sets_the_exit_code_and_other_checks_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_process("doctor", "--run-dir", tmp_path / "file")
    refused(result, 78, "1 of 10 checks failed: storage")
    storage, clock = result.stdout.splitlines()[-2:]
    assert storage.startswith("failure")
    assert f"{tmp_path / 'file'}: Not a directory; choose another --run-dir" in storage
    assert clock.startswith("skipped")


def test_a_full_disk_is_a_failure(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=4k") as disk:
        (disk / "full").write_bytes(b"x" * 4096)
        with pytest.raises(BadInputError, match="No space left on device"):
            checks.Storage(str(disk)).written()
        assert [path.name for path in disk.iterdir()] == ["full"]
        (disk / "full").unlink()
        assert "choose another --run-dir" in checks.Storage(str(disk)).written().remedy


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        (
            ["jax>=99"],
            f"jax {jax.__version__} does not match >=99; fix with: pip install -U 'jax>=99'",
        ),
        (["no-such-package>=1"], "no-such-package is missing"),
    ],
)
def test_packages_that_are_too_old_or_absent_are_named(
    monkeypatch: pytest.MonkeyPatch, requirements: list[str], words: str
) -> None:
    monkeypatch.setattr(
        metadata, "requires", lambda _: ["numpy>=1", "x>=9; extra == 'tpu'", *requirements]
    )
    with pytest.raises(BadInputError) as failure:
        checks.packages()
    assert words in str(failure.value)
    assert "'x" not in str(failure.value)


def test_a_python_that_is_too_old_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "metadata", lambda _: {"Requires-Python": ">=3.99"})
    with pytest.raises(BadInputError, match=r">=3\.99 is needed"):
        checks.python()


def test_no_device_is_code_69_and_a_broken_jax_code_78(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Any:
        def devices() -> None:
            raise error

        return devices

    monkeypatch.setattr(jax, "devices", fails(RuntimeError("Unable to initialize backend")))
    line, failure = examined("devices", checks.devices)
    assert isinstance(failure, DeviceUnavailableError)
    assert "end the process that uses it" in line.found
    monkeypatch.setattr(jax, "devices", fails(ImportError("libfoo.so.1: cannot open")))
    line, failure = examined("devices", checks.devices)
    assert isinstance(failure, BadInputError)
    assert line.state == "failure"
    assert "libfoo.so.1" in line.found


def test_a_wrong_product_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.numpy, "matmul", lambda x, y, precision: x @ y + 1)
    with pytest.raises(UserError, match="a compiled matrix product has an error of 1"):
        checks.compiler()


def test_low_limits_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert examined("cores", checks.cores)[0].state == "warning"
    assert "ulimit -n 4096" in checks.open_files().remedy


def test_checks_that_need_linux_are_skipped_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(checks, "_MEMORY", tmp_path / "meminfo")
    for name, check in (("cores", checks.cores), ("memory", checks.memory)):
        line, failure = examined(name, check)
        assert (line.state, failure) == ("skipped", None)
        assert "Linux" in line.found


def test_storage_is_probed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probed: list[Path] = []
    probe = checks._write_and_read
    monkeypatch.setattr(checks, "_write_and_read", lambda at: probed.append(at) or probe(at))
    storage = checks.Storage(str(tmp_path))
    storage.written()
    storage.clock()
    assert probed == [tmp_path]


def test_an_unwritable_compile_cache_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config: Any = jax.config
    before = config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    try:
        assert "set JAX_COMPILATION_CACHE_DIR" in checks.compile_cache().remedy
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@contextmanager
def google_cloud(zone: str, ahead: float, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Emulate a VM in a zone whose clock is ahead by so many seconds."""

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Metadata-Flavor"] == "Google"
            assert self.path == "/computeMetadata/v1/instance/zone"
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + ahead, usegmt=True))
            self.end_headers()
            self.wfile.write(f"projects/1/zones/{zone}".encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


@pytest.mark.parametrize(("ahead", "warned"), [(0.0, False), (-300.0, True)])
def test_the_clock_is_compared_with_google_cloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ahead: float, warned: bool
) -> None:
    with google_cloud("us-central2-b", ahead, monkeypatch):
        result = checks.Storage(str(tmp_path)).clock()
    assert "Google Cloud" in result.text
    assert ("timedatectl" in result.remedy) == warned


def test_a_clock_that_differs_from_that_of_the_disk_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = time.time
    monkeypatch.setattr(checks, "time", SimpleNamespace(time=lambda: now() + 90))
    storage = checks.Storage(str(tmp_path))
    storage.written()
    result = storage.clock()
    assert "90.0 s ahead of that of" in result.text
    assert "timedatectl" in result.remedy


@pytest.mark.parametrize(
    ("where", "zone", "apart"),
    [
        ("us-central2", "us-central2-b", False),
        ("us", "us-central2-b", False),
        ("eu", "europe-west4-a", False),
        ("nam4", "us-central1-a", False),
        ("eu", "us-central2-b", True),
        ("europe-west4", "us-central2-b", True),
    ],
)
def test_a_bucket_in_another_region_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, where: str, zone: str, apart: bool
) -> None:
    monkeypatch.setattr(checks, "region_of", lambda _: where)
    with google_cloud(zone, 0.0, monkeypatch):
        result = checks.region("unused")
    assert bool(result.remedy) == apart
    assert where in result.text
    assert zone in result.text


def test_a_bucket_is_written_and_cleaned_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with gcs_emulator.emulator() as (url, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        bucket = gcs_emulator.make_bucket(url, "doctor-bucket")
        result = run_process("doctor", "--run-dir", f"{bucket}/runs/new")
        assert result.returncode == 0, result.stderr
        assert f"{bucket}/runs/new: written, read and deleted" in result.stdout
        assert f"that of {bucket}/runs/new" in result.stdout
        assert "the bucket is in us, this machine is not on Google Cloud" in result.stdout
        assert gcs_emulator.names(url, f"{bucket}/runs") == []
        result = run_process("doctor", "--run-dir", "gs://no-such-bucket-here/x")
        refused(result, 78, "2 of 11 checks failed: storage, region")
