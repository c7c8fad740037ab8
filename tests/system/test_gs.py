"""Runs in a bucket: the same as on a disk, through a server that behaves like Google's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from google.api_core.exceptions import Forbidden, ServiceUnavailable
from google.auth.exceptions import DefaultCredentialsError
from tensorboardX.proto.event_pb2 import Event

from bert_jax.config.run import RunConfig
from bert_jax.runtime import bucket_append
from bert_jax.runtime.bucket_append import AppendedObject
from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.runtime.paths import at, explained, is_remote
from bert_jax.runtime.sessions import sessions
from bert_jax.training import metrics
from pipelines.tasks.experiment import PREDICTIONS
from support import gcs_emulator
from support.commands import ROOT, command, inspected, refused, run_process, start, write_config
from support.finetuned import MODEL, texts
from support.jobs import both, ended, same_curve

STEPS = 20


@pytest.fixture(scope="module", autouse=True)
def url() -> Iterator[str]:
    """Of a server that all processes of these tests ask."""
    with pytest.MonkeyPatch.context() as patch, gcs_emulator.emulator() as (address, variables):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield address


@pytest.fixture
def bucket(url: str, request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own."""
    return gcs_emulator.make_bucket(url, f"b{abs(hash(request.node.nodeid))}")


@pytest.fixture(scope="module")
def remote(url: str, config_base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same run in a bucket, to be read only."""
    run = f"{gcs_emulator.make_bucket(url, 'finished')}/some where/run"
    config = write_config(replace(config_base, run_dir=run), tmp_path_factory.mktemp("config"))
    result = run_process("pretrain", "--config", config, "--profile", "2:4")
    assert result.returncode == 0, result.stderr
    assert f"new run in {run}" in result.stderr
    return run


def arguments(config: RunConfig, run: str, folder: Path) -> tuple[str, ...]:
    return "pretrain", "--config", str(write_config(replace(config, run_dir=run), folder))


def plain(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what is measured by the clock."""
    clock = ("seconds", "tokens_per_second")
    return [{key: x for key, x in line.items() if key not in clock} for line in lines]


def events(content: bytes) -> list[Event]:
    """Of an event file: records of a length, its checksum, an event and its checksum."""
    found = []
    while content:
        size = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


def steps_saved(url: str, run: str) -> list[int]:
    found = [name.split("/") for name in gcs_emulator.names(url, f"{run}/checkpoints")]
    return sorted(int(step) for step, *rest in found if rest == ["commit_success.txt"])


def test_a_run_in_a_bucket_is_the_run_on_a_disk(
    url: str, trained: Path, remote: str, tmp_path: Path
) -> None:
    assert inspected(remote)["digest"] == inspected(trained)["digest"]
    copy = gcs_emulator.download(url, remote, tmp_path / "copy")
    assert plain(metrics.read(copy)) == plain(metrics.read(trained))
    for name in ("data.md", "tokenizer/sentencepiece.model"):
        assert (copy / name).read_bytes() == (trained / name).read_bytes()
    there = {path.name for path in copy.iterdir()}
    assert there == {path.name for path in trained.iterdir()} | {"profile"}
    assert list(copy.glob("profile/**/*.xplane.pb"))
    ours, theirs = (
        [
            (event.step, value.tag, value.simple_value)
            for file in (run / "tensorboard").iterdir()
            for event in events(file.read_bytes())
            for value in event.summary.value
            if value.tag not in ("seconds", "tokens_per_second")
        ]
        for run in (copy, trained)
    )
    assert ours == theirs
    assert len(ours) > STEPS


@pytest.mark.full
@pytest.mark.parametrize("name", ["", "/checkpoints/15"])
def test_a_model_in_a_bucket_is_used_as_any_other(
    trained: Path, remote: str, name: str, tmp_path: Path
) -> None:
    text = "The captain finds a [MASK]."
    ours, theirs = (
        run_process("fill-mask", f"{run}{name}", text, "--json") for run in (remote, trained)
    )
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == theirs.stdout
    converted = run_process("convert", f"{remote}{name}", tmp_path / "out", "--to", "hf")
    assert converted.returncode == 0, converted.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.full
def test_evaluation_and_a_run_that_begins_with_it(
    trained: Path, remote: str, config: RunConfig, tmp_path: Path
) -> None:
    ours, theirs = (run_process("evaluate", run, "--json") for run in (remote, trained))
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == theirs.stdout
    begun = run_process(*arguments(config, config.run_dir, tmp_path), "--init", remote)
    assert begun.returncode == 0, begun.stderr
    assert f"weights from {remote}" in begun.stderr


@pytest.mark.full
def test_a_run_that_is_killed_goes_on_with_the_same_bits(
    url: str, trained: Path, bucket: str, config: RunConfig, tmp_path: Path
) -> None:
    run = f"{bucket}/run"
    words = arguments(config, run, tmp_path)
    process = start(*words, "--train.eval_every", "1")  # slower
    while not steps_saved(url, run) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    newest = steps_saved(url, run)[-1]
    assert newest < STEPS
    # What the checkpoint stands for is in the log before the checkpoint is.
    cut = metrics.read(gcs_emulator.download(url, run, tmp_path / "cut"))
    known = [line["step"] for line in cut if "loss" in line]
    assert known[:newest] == list(range(1, newest + 1))
    # A line of a lost update, as the thread would have written it later.
    lost = json.dumps({"step": newest + 1, "loss": 0.0}) + "\n"
    gcs_emulator.write(
        url, f"{run}/metrics.jsonl", gcs_emulator.read(url, f"{run}/metrics.jsonl") + lost.encode()
    )
    result = run_process(*words)
    assert result.returncode == 0, result.stderr
    assert f"resuming at step {newest}" in result.stderr
    assert inspected(run)["digest"] == inspected(trained)["digest"]
    lines = metrics.read(gcs_emulator.download(url, run, tmp_path / "copy"))
    losses = [line for line in plain(lines) if "loss" in line]
    assert [line["step"] for line in losses] == list(range(1, STEPS + 1))
    assert losses == [line for line in plain(metrics.read(trained)) if "loss" in line]


@pytest.mark.full
def test_sigterm_saves_there(url: str, bucket: str, config: RunConfig, tmp_path: Path) -> None:
    run = f"{bucket}/run"
    process = start(*arguments(config, run, tmp_path), "--checkpoint.every", "1000")
    assert process.stderr is not None
    while "step 10 held out" not in process.stderr.readline() and process.poll() is None:
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75, said
    (saved,) = steps_saved(url, run)
    copy = gcs_emulator.download(url, run, tmp_path / "copy")
    lines = metrics.read(copy)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, saved + 1))
    assert [one.stopped for one in sessions(copy)] == [saved]


@pytest.mark.full
def test_two_processes_and_then_one(
    url: str, trained: Path, bucket: str, config: RunConfig, tmp_path: Path
) -> None:
    run = f"{bucket}/run"
    words = arguments(config, run, tmp_path)
    results = ended(both(command(*words, "--parallel.shard_state", "true")))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    same_curve(gcs_emulator.download(url, run, tmp_path / "copy"), trained)
    assert steps_saved(url, run) == [10, 15, 20]
    result = run_process(*words, "--train.steps", "21")
    assert result.returncode == 0, result.stderr
    assert "resuming at step 20" in result.stderr


@pytest.mark.full
def test_a_damaged_checkpoint_is_set_aside(
    url: str, trained: Path, bucket: str, remote: str, config: RunConfig, tmp_path: Path
) -> None:
    run = f"{bucket}/run"
    copy = gcs_emulator.download(url, remote, tmp_path / "copy")
    for name in ("15", "20"):  # all that is needed
        gcs_emulator.upload(url, copy / "checkpoints" / name, f"{run}/checkpoints/{name}")
    gcs_emulator.write(url, f"{run}/config.yaml", (copy / "config.yaml").read_bytes())
    files = [path for path in (copy / "checkpoints/20/params").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    for place in range(len(content) // 4, len(content) // 2, 50):
        content[place] ^= 1
    gcs_emulator.write(url, f"{run}/{largest.relative_to(copy)}", bytes(content))
    read = run_process("inspect", run, "--json")
    assert json.loads(read.stdout)["step"] == 15, read.stderr
    assert steps_saved(url, run) == [15, 20]
    result = run_process(*arguments(config, run, tmp_path))
    assert result.returncode == 0, result.stderr
    assert "checkpoint 20 is damaged" in result.stderr
    assert "checkpoint 20 is kept as 20.damaged" in result.stderr
    assert "resuming at step 15" in result.stderr
    assert inspected(run)["digest"] == inspected(trained)["digest"]
    kept = f"checkpoints/20.damaged/{largest.relative_to(copy / 'checkpoints/20')}"
    assert gcs_emulator.read(url, f"{run}/{kept}") == content


def test_a_folder_with_other_things_is_refused(
    url: str, bucket: str, config: RunConfig, tmp_path: Path
) -> None:
    gcs_emulator.write(url, f"{bucket}/run/letter.txt", b"Dear")
    refused(run_process(*arguments(config, f"{bucket}/run", tmp_path)), 78, "letter.txt")
    assert gcs_emulator.names(url, f"{bucket}/run") == ["letter.txt"]


@pytest.mark.full
def test_what_cannot_be_reached_is_one_line(url: str, config: RunConfig, tmp_path: Path) -> None:
    def said(run: str, code: int, *words: str, **variables: str) -> None:
        refused(run_process(*arguments(config, run, tmp_path), **variables), code, *words)
        refused(run_process("inspect", run, **variables), code, *words)

    said("gs://no-such-bucket/run", 78, "gs://no-such-bucket", "gcloud storage buckets create")
    gcs_emulator.make_bucket(url, "refused-one")
    said("gs://refused-one/run", 78, "gs://refused-one", "Storage Object Admin")
    (tmp_path / "gcsfs.py").write_text("raise ModuleNotFoundError(name='gcsfs')\n")
    said("gs://finished/run", 78, "gcsfs", "bert-jax[cloud]", PYTHONPATH=str(tmp_path))
    refused(run_process("inspect", "gs:///run"), 78, "no bucket")
    elsewhere = ("convert", MODEL, "gs://finished/out", "--to", "hf")
    refused(run_process(*elsewhere), 78, "OUT gs://finished/out must be a local folder")


def test_a_folder_of_others_has_to_be_copied(url: str, bucket: str) -> None:
    gcs_emulator.upload(url, MODEL, f"{bucket}/theirs")
    refused(run_process("inspect", f"{bucket}/theirs"), 78, "gcloud storage cp -r")


@pytest.mark.full
def test_fine_tuning_in_a_bucket(url: str, bucket: str, tmp_path: Path) -> None:
    train = texts(tmp_path / "train.csv", 24, 0)
    words = ["finetune", "classification", "--init", MODEL, "--data.train", train]
    words += ["--data.validation", train, "--data.length", "16", "--train.epochs", "1"]
    result = run_process(*words, "--run_dir", f"{bucket}/run")
    assert result.returncode == 0, result.stderr
    copy = gcs_emulator.download(url, f"{bucket}/run", tmp_path / "copy")
    assert "accuracy" in json.loads((copy / "eval_results.json").read_text())
    assert len((copy / PREDICTIONS).read_text().splitlines()) == 24
    out = tmp_path / "out.jsonl"
    found = run_process("predict", f"{bucket}/run", "--input", train, "--output", out)
    assert found.returncode == 0, found.stderr


class Object:
    """Stands for a path in a bucket that sometimes cannot be reached."""

    def __init__(self) -> None:
        self.content = b""
        self.fails = True
        self.tried = threading.Event()

    def __str__(self) -> str:
        return "gs://bucket/file"

    def write_bytes(self, content: bytes) -> None:
        self.tried.set()
        if self.fails:
            raise aiohttp.ClientConnectionError("nobody there")
        self.content = content


def test_what_is_appended_waits_until_the_bucket_is_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bucket_append, "PERIOD", 0.01)
    there = Object()
    file = AppendedObject(cast(Path, there), b"one\n")
    file.write(b"two\n")
    there.tried.wait(10)
    with pytest.raises(UserError, match="gs://bucket/file: nobody there"):
        file.flush()
    there.fails = False
    file.flush()
    assert there.content == b"one\ntwo\n"
    file.write(b"three\n")
    file.close()
    assert there.content == b"one\ntwo\nthree\n"
    assert "gs://bucket/file: nobody there; when it can be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("Forbidden: b/x/o\nsomebody does not have access"), 78),
        (Forbidden("no"), 78),
        (DefaultCredentialsError("none"), 78),
        (ValueError("PERMISSION_DENIED: Error reading gs://b/x: no"), 78),
        (ValueError("UNAVAILABLE: Error reading gs://b/x: later"), 1),
        (ServiceUnavailable("later"), 1),
        (aiohttp.ClientConnectionError(), 1),
        (ValueError("DATA_LOSS: Error reading gs://b/x: damaged"), None),
        (ValueError("PERMISSION_DENIED: Error opening /home/x"), None),
        (FileNotFoundError(2, "no such file"), None),
    ],
)
def test_which_failures_are_those_of_the_bucket(error: Exception, code: int | None) -> None:
    found = explained(error)
    assert (found.exit_code if found else None) == code
    assert isinstance(found, BadInputError) == (code == 78)


def test_no_token_is_said() -> None:
    found = explained(aiohttp.ClientError("GET https://x.y/z?access_token=secret&a=b (no answer)"))
    assert str(found).startswith("Google Cloud Storage: GET https://x.y/z (no answer); when")


def test_local_paths_are_those_of_pathlib(tmp_path: Path) -> None:
    for name in ("", "runs/tiny", "/a/b", "s3://bucket/x", tmp_path):
        assert at(name) == Path(name)
        assert not is_remote(at(name))


# Lists a folder, in which another program then writes.
LISTING = """
import sys
from bert_jax.runtime.paths import at
from support import gcs_emulator
url, folder = sys.argv[1:]
for name in ("one", "two"):
    gcs_emulator.write(url, f"{folder}/{name}", b"content")
    print(sorted(path.name for path in at(folder).iterdir()))
"""


def test_what_others_write_is_seen_at_once(url: str, bucket: str) -> None:
    listed = subprocess.run(
        [sys.executable, "-c", LISTING, url, f"{bucket}/folder"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.splitlines() == ["['one']", "['one', 'two']"]
