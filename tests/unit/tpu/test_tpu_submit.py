"""Requests to the cloud, and the bundle for the hosts."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_jax.runtime.errors import BadInputError
from pipelines.settings import command_parser
from support.commands import ROOT, invoke, refused, run_process
from tpu.config import SubmittedConfig, read
from tpu.launch.bundle import SUMS, upload
from tpu.launch.request import Launch, name_of, prepare, queued_resource, redacted
from tpu.launch.submit import request_json

GOLDEN = ROOT / "tests" / "golden" / "tpu_submit.txt"
CONFIG = ROOT / "configs" / "tpu" / "base_v5litepod_16.yaml"
OPTIONS = ("--run_dir", "gs://bucket/runs/base", "--data.store", "gs://bucket/stores/books")
SCRIPT = (ROOT / "tpu/host/startup.sh").read_text("utf-8")
NO_NETWORK = """
import os, socket
def refused(*_):
    os.write(2, b"the network was used")
    os._exit(99)
socket.socket.connect = socket.getaddrinfo = refused
"""
# Digests and sizes that change with every line of the project.
DIGEST = re.compile(r"\b[0-9a-f]{64}\b|(?<=whl  )[\d,]+(?= bytes)|(?<=yaml  )[\d,]+(?= bytes)")


def submit(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    project = {"GOOGLE_CLOUD_PROJECT": "my-project", **variables}
    if "PYTHONPATH" not in variables:
        return invoke("tpu", "submit", *arguments, **project)
    return run_process("tpu", "submit", *arguments, **project)


def config(*options: str, file: Path = CONFIG) -> SubmittedConfig:
    return read(command_parser("tpu submit", ""), ["--config", str(file), *OPTIONS, *options])[0]


@pytest.fixture(scope="module")
def launch() -> tuple[Launch, dict[str, bytes]]:
    return prepare(config("--tpu.project", "my-project"))


# Made with: GOOGLE_CLOUD_PROJECT=my-project bert-jax tpu submit
#   configs/tpu/base_v5litepod_16.yaml --run_dir gs://bucket/runs/base
#   --data.store gs://bucket/stores/books --dry-run | sed -E 's/DIGEST/#/g'
def test_a_dry_run_prints_the_request_and_the_script_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK, "utf-8")
    result = submit(str(CONFIG), *OPTIONS, "--dry-run", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    description, _, script = result.stdout.partition("at every boot:\n")
    assert script == SCRIPT + "\n"
    assert DIGEST.sub("#", description) == GOLDEN.read_text("utf-8")


def test_the_guide_shows_what_a_dry_run_prints() -> None:
    text = (ROOT / "docs/how-to/spot.md").read_text("utf-8")
    command = re.search(
        r"^bert-jax tpu (submit \S+ .*--dry-run)\n```\n```\n(.*?)```", text, re.M | re.S
    )
    assert command is not None
    result = submit(*command[1].split()[1:])
    assert result.returncode == 0, result.stderr
    remaining = result.stdout
    for part in filter(None, command[2].split("…\n")):
        assert part in remaining, part
        remaining = remaining.partition(part)[2]


def test_a_dry_run_for_programs_is_the_body_that_is_sent(
    launch: tuple[Launch, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    body = request_json(launch[0], "us-west4-a")
    message = type(queued_resource(launch[0], "us-west4-a", 1)).from_json(json.dumps(body))
    assert message == queued_resource(launch[0], "us-west4-a", 1)
    node = body["tpu"]["nodeSpec"][0]["node"]
    assert node["metadata"]["startup-script"] == SCRIPT
    assert node["metadata"]["bert-jax-run"] == "gs://bucket/runs/base"
    assert (node["acceleratorType"], node["runtimeVersion"]) == (
        "v5litepod-16",
        "v2-alpha-tpuv5-lite",
    )
    assert body["spot"] == {}


def of(*options: str) -> dict[str, Any]:
    return request_json(prepare(config("--tpu.project", "my-project", *options))[0], "us-west4-a")


def test_every_key_of_the_config_reaches_the_request() -> None:
    account = "trainer@my-project.iam.gserviceaccount.com"
    body = of("--tpu.capacity", "on-demand", "--tpu.service_account", account)
    assert "spot" not in body
    node = body["tpu"]["nodeSpec"][0]["node"]
    assert node["serviceAccount"] == {
        "email": account,
        "scope": ["https://www.googleapis.com/auth/cloud-platform"],
    }
    options = ("--tpu.network", "net", "--tpu.subnetwork", "sub", "--tpu.internal_ip", "true")
    node = of(*options)["tpu"]["nodeSpec"][0]["node"]
    assert node["networkConfig"] == {"network": "net", "subnetwork": "sub"}
    body = of("--tpu.capacity", "reserved", "--tpu.runtime", "v2-alpha-tpuv5-lite-preview")
    node = body["tpu"]["nodeSpec"][0]["node"]
    assert body["reservationName"] == "projects/my-project/locations/us-west4-a/reservations/-"
    assert node["runtimeVersion"] == "v2-alpha-tpuv5-lite-preview"
    spec = of("--tpu.slices", "2")["tpu"]["nodeSpec"][0]
    name = name_of("gs://bucket/runs/base")
    assert "nodeId" not in spec
    assert spec["multisliceParams"] == {"nodeCount": 2, "nodeIdPrefix": f"{name}-1"}


def test_names_are_valid_and_of_one_run_each() -> None:
    names = {
        name_of(run)
        for run in ("gs://a/run", "gs://b/run", "/x/My Run_1", "gs://a/" + "x" * 90, "gs://a/---")
    }
    assert len(names) == 5
    for name in names:
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name)
    assert name_of("gs://a/run/") == name_of("gs://a/run")


def test_the_bundle_is_reproducible_and_complete(
    launch: tuple[Launch, dict[str, bytes]],
) -> None:
    again, files = prepare(config("--tpu.project", "my-project"))
    assert files == launch[1]
    assert again.spec == launch[0].spec
    (wheel,) = (name for name in files if name.endswith(".whl"))
    names = zipfile.ZipFile(io.BytesIO(files[wheel])).namelist()
    for part in (
        "bert_jax/config/accelerators.yaml",
        "bert_jax/training/trainer.py",
        "pipelines/commands/pretrain.py",
        "tpu/host/supervise.py",
        "tpu/host/training_process.py",
    ):
        assert part in names
    for line in files[SUMS].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files[name]).hexdigest() == digest


def test_changes_that_make_another_launch(
    launch: tuple[Launch, dict[str, bytes]],
) -> None:
    def spec(*options: str) -> str:
        return prepare(config("--tpu.project", "my-project", *options))[0].spec

    assert spec("--tpu.max_wait", "60", "--tpu.zones", "[us-east5-a]") == launch[0].spec
    assert spec("--tpu.capacity", "on-demand") != launch[0].spec
    assert spec("--optimizer.learning_rate", "1e-5") != launch[0].spec


def test_every_download_of_the_machines_is_pinned_by_a_hash(
    launch: tuple[Launch, dict[str, bytes]],
) -> None:
    for name in ("tools.txt", "requirements.txt"):
        text = launch[1][name].decode().replace("\\\n", " ")
        for line in text.splitlines():
            pinned = r"[a-z0-9._-]+==\S+( +; .*?)?( +--hash=sha256:[0-9a-f]{64} *)+"
            assert re.fullmatch(pinned, line), line
    installs = [line for line in SCRIPT.replace("\\\n", " ").splitlines() if "pip install" in line]
    assert len(installs) == 4
    for line in installs:
        assert "--require-hashes" in line or "--offline" in line
    assert "http://" not in SCRIPT.replace("http://${GCE_METADATA_IP", "")


def test_shellcheck_finds_nothing_in_the_startup_script() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    command = [str(shellcheck), "--norc", "--enable=all", "--exclude=SC2312,SC2250", "-"]
    result = subprocess.run(command, input=SCRIPT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    subprocess.run(["bash", "-n"], input=SCRIPT, text=True, check=True)


def test_secrets_are_not_printed_and_keys_are_not_sent(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    private = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----\n"
    key.write_text(json.dumps({"type": "service_account", "private_key": private}), "utf-8")
    variables = {"GOOGLE_APPLICATION_CREDENTIALS": str(key), "WANDB_API_KEY": "0123456789abcdef"}
    result = submit(
        *(str(CONFIG), *OPTIONS, "--dry-run"),
        *("--tpu.network", "0123456789abcdef", "--run_dir", "gs://bucket/0123456789abcdef/x"),
        **variables,
    )
    assert result.returncode == 0, result.stderr
    assert "[redacted]" in result.stdout
    for word in ("PRIVATE KEY", "MIIEvQ", "0123456789abcdef", str(key)):
        assert word not in result.stdout + result.stderr
    files = prepare(config("--tpu.project", "my-project"))[1]
    assert set(files) == {
        "python.txt", "tools.txt", "requirements.txt", "config.yaml", "host.json", SUMS,
        "bert_jax-0.1.0-py3-none-any.whl",
    }  # fmt: skip


def test_a_key_in_the_environment_itself_is_a_secret_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than any name of a file may be, as where a CI has it in a variable."""
    monkeypatch.setenv("GOOGLE_CREDENTIALS", "k" * 5000)
    assert redacted("a " + "k" * 5000) == "a [redacted]"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("token ya29.a0AfH6SMBx-y_z end", "token [redacted] end"),
        ("AIzaSyA1234567890abcdefghijklmnopqrstuv", "[redacted]"),
        ("https://me:hunter2@pypi.example/simple", "https://[redacted]@pypi.example/simple"),
        ("hf_abcdefghijklmnopqrstuvwxyz", "[redacted]"),
        ("projects/p/zones/us-west4-a sha256 0123", "projects/p/zones/us-west4-a sha256 0123"),
    ],
)
def test_redaction(text: str, left: str) -> None:
    assert redacted(text) == left


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tpu.zones", "[]"], ["tpu.zones is not set"]),
        (["--tpu.zones", "[europe]"], ["europe", "us-west4-a"]),
        (["--tpu.accelerator", "v5litepod-17"], ["v5litepod-17", "did you mean v5litepod-1"]),
        (["--tpu.accelerator", ""], ["tpu.accelerator is not set"]),
        (["--data.store", ""], ["data.store is not set"]),
        (["--run_dir", "gs://bucket/my run"], ["run_dir", "my run"]),
        (["--run_dir", "gs://YOUR-BUCKET/x"], ["run_dir", "replace YOUR-BUCKET with your bucket"]),
        (["--run_dir", "gs://bucket/$(reboot)"], ["run_dir"]),
        (["--train.batch_size", "24"], ["24", "16 devices"]),
        (["--tpu.project", "My Project"], ["My Project", "gcloud projects list"]),
        (["--tpu.project", "123456789012"], ["is a project number"]),
        (["--tpu.zones", "us-west4-a"], ["--tpu.zones", "a list such as '[a, b]'"]),
        (["--tpu.service_account", "bert"], ["bert@PROJECT.iam.gserviceaccount.com"]),
        (["--run_dir", "gs://bucket"], ["is a whole bucket"]),
        (["--run_dir", "s3://bucket/x"], ["s3://bucket/x", "gs://BUCKET/NAME"]),
        (["--watch"], ["exclude each other"]),
        (["--tpu.max_failures", "0"], ["tpu.max_failures must be at least 1"]),
    ],
)
def test_a_config_that_cannot_be_submitted_is_refused_in_one_line(
    options: list[str], words: list[str]
) -> None:
    result = submit(str(CONFIG), *OPTIONS, *options, "--dry-run")
    arguments = {"v5litepod-17", "us-west4-a", "--watch"}
    code = 64 if arguments & set(options) else 78
    refused(result, code, *words)


def test_paths_are_those_of_where_it_was_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--tpu.project", "my-project", "--run_dir", "runs/a", "--data.store", "store")
    options += ("--init", "hf:me/bert@v1")
    launch, files = prepare(config(*options))
    assert launch.run == str(tmp_path / "runs" / "a")
    sent = yaml.safe_load(files["config.yaml"])
    assert sent["run_dir"] == launch.run
    assert sent["data"]["store"] == str(tmp_path / "store")
    assert sent["init"] == "hf:me/bert@v1"


def test_a_run_without_a_hang_timeout_gets_one(tmp_path: Path) -> None:
    files = prepare(config("--tpu.project", "my-project", "--train.hang_timeout", "0"))[1]
    assert yaml.safe_load(files["config.yaml"])["train"]["hang_timeout"] == 1200
    assert json.loads(files["host.json"])["hang_timeout"] == 1200


def test_only_a_checkout_can_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpu.launch.bundle._ROOT", tmp_path)
    with pytest.raises(BadInputError, match=r"has no setup\.cfg"):
        prepare(config("--tpu.project", "my-project"))


def test_nothing_of_a_launch_in_a_local_folder_is_readable_for_others(
    launch: tuple[Launch, dict[str, bytes]], tmp_path: Path
) -> None:
    upload(launch[1], tmp_path)
    assert (tmp_path / "launch" / SUMS).is_file()
    assert not (tmp_path / "launch").stat().st_mode & (stat.S_IRWXO | stat.S_IRWXG)
