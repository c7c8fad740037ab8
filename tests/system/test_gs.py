"""Runs in a bucket of the storage emulator: the same results as on a disk."""

from __future__ import annotations

import json
import signal
import threading
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
from bert_jax.runtime.sessions import read_sessions
from bert_jax.training import metrics
from pipelines.tasks.experiment import PREDICTIONS
from support import gcs_emulator
from support.commands import (
    command,
    inspected,
    refused,
    run_process,
    run_python,
    start,
    write_config,
)
from support.finetuned import MODEL
from support.jobs import assert_same_curve, start_two, wait_for_all
from support.task_files import classification
from support.waiting import wait_until

STEPS = 20


pytest_plugins = ["support.buckets"]
pytestmark = pytest.mark.usefixtures("bucket_server")


@pytest.fixture
def bucket(bucket_server: str, request: pytest.FixtureRequest) -> str:
    """Create a bucket for this test."""
    return gcs_emulator.make_bucket(bucket_server, f"b{abs(hash(request.node.nodeid))}")


@pytest.fixture(scope="module")
def remote(
    bucket_server: str, config_base: RunConfig, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Return the run of `trained` in a bucket, which tests must not change."""
    run = f"{gcs_emulator.make_bucket(bucket_server, 'finished')}/some where/run"
    config = write_config(replace(config_base, run_dir=run), tmp_path_factory.mktemp("config"))
    result = run_process("pretrain", "--config", config, "--profile", "2:4")
    assert result.returncode == 0, result.stderr
    assert f"new run in {run}" in result.stderr
    return run


def arguments(config: RunConfig, run: str, folder: Path) -> tuple[str, ...]:
    return "pretrain", "--config", str(write_config(replace(config, run_dir=run), folder))


def plain(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove what depends on the clock."""
    clock = ("seconds", "tokens_per_second")
    return [{key: x for key, x in line.items() if key not in clock} for line in lines]


def events(content: bytes) -> list[Event]:
    """Parse an event file: records of a length, its checksum, an event and its checksum."""
    result = []
    while content:
        size = int.from_bytes(content[:8], "little")
        result.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return result


def steps_saved(bucket_server: str, run: str) -> list[int]:
    paths = [name.split("/") for name in gcs_emulator.names(bucket_server, f"{run}/checkpoints")]
    return sorted(int(step) for step, *rest in paths if rest == ["commit_success.txt"])


def test_a_run_in_a_bucket_is_the_run_on_a_disk(
    bucket_server: str, trained: Path, remote: str, tmp_path: Path
) -> None:
    assert inspected(remote)["digest"] == inspected(trained)["digest"]
    copy = gcs_emulator.download(bucket_server, remote, tmp_path / "copy")
    assert plain(metrics.read(copy)) == plain(metrics.read(trained))
    for name in ("data.md", "tokenizer/sentencepiece.model"):
        assert (copy / name).read_bytes() == (trained / name).read_bytes()
    names = {path.name for path in copy.iterdir()}
    assert names == {path.name for path in trained.iterdir()} | {"profile"}
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
def test_evaluation_and_a_run_with_init(
    trained: Path, remote: str, config: RunConfig, tmp_path: Path
) -> None:
    ours, theirs = (run_process("evaluate", run, "--json") for run in (remote, trained))
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == theirs.stdout
    initialized = run_process(*arguments(config, config.run_dir, tmp_path), "--init", remote)
    assert initialized.returncode == 0, initialized.stderr
    assert f"weights from {remote}" in initialized.stderr


@pytest.mark.full
def test_a_killed_run_resumes_with_identical_results(
    bucket_server: str, trained: Path, bucket: str, config: RunConfig, tmp_path: Path
) -> None:
    run = f"{bucket}/run"
    words = arguments(config, run, tmp_path)
    process = start(*words, "--train.eval_every", "1")  # slower
    wait_until(lambda: steps_saved(bucket_server, run), process)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGKILL, stderr
    newest = steps_saved(bucket_server, run)[-1]
    assert newest < STEPS
    # The log lines of a checkpoint are written before it.
    cut = metrics.read(gcs_emulator.download(bucket_server, run, tmp_path / "cut"))
    logged = [line["step"] for line in cut if "loss" in line]
    assert logged[:newest] == list(range(1, newest + 1))
    # Add the line of a lost update, which the thread might have written.
    lost = json.dumps({"step": newest + 1, "loss": 0.0}) + "\n"
    gcs_emulator.write(
        bucket_server,
        f"{run}/metrics.jsonl",
        gcs_emulator.read(bucket_server, f"{run}/metrics.jsonl") + lost.encode(),
    )
    result = run_process(*words)
    assert result.returncode == 0, result.stderr
    assert f"resuming at step {newest}" in result.stderr
    assert inspected(run)["digest"] == inspected(trained)["digest"]
    lines = metrics.read(gcs_emulator.download(bucket_server, run, tmp_path / "copy"))
    losses = [line for line in plain(lines) if "loss" in line]
    assert [line["step"] for line in losses] == list(range(1, STEPS + 1))
    assert losses == [line for line in plain(metrics.read(trained)) if "loss" in line]


@pytest.mark.full
def test_sigterm_saves_in_the_bucket(
    bucket_server: str, bucket: str, config: RunConfig, tmp_path: Path
) -> None:
    run = f"{bucket}/run"
    process = start(*arguments(config, run, tmp_path), "--checkpoint.every", "1000")
    assert process.stderr is not None
    while "evaluation at step 10:" not in process.stderr.readline() and process.poll() is None:
        pass
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 75, stderr
    (saved,) = steps_saved(bucket_server, run)
    copy = gcs_emulator.download(bucket_server, run, tmp_path / "copy")
    lines = metrics.read(copy)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, saved + 1))
    assert [(s.ending, s.last_step) for s in read_sessions(copy, lines)] == [("stop", saved)]


@pytest.mark.full
def test_two_processes_and_then_one(
    bucket_server: str, trained: Path, bucket: str, config: RunConfig, tmp_path: Path
) -> None:
    run = f"{bucket}/run"
    words = arguments(config, run, tmp_path)
    results = wait_for_all(start_two(command(*words, "--parallel.shard_state", "true")))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert_same_curve(gcs_emulator.download(bucket_server, run, tmp_path / "copy"), trained)
    assert steps_saved(bucket_server, run) == [10, 15, 20]
    result = run_process(*words, "--train.steps", "21")
    assert result.returncode == 0, result.stderr
    assert "resuming at step 20" in result.stderr


@pytest.mark.full
def test_a_damaged_checkpoint_is_set_aside(
    bucket_server: str, trained: Path, bucket: str, remote: str, config: RunConfig, tmp_path: Path
) -> None:
    run = f"{bucket}/run"
    copy = gcs_emulator.download(bucket_server, remote, tmp_path / "copy")
    for name in ("15", "20"):  # two checkpoints suffice
        gcs_emulator.upload(bucket_server, copy / "checkpoints" / name, f"{run}/checkpoints/{name}")
    gcs_emulator.write(bucket_server, f"{run}/config.yaml", (copy / "config.yaml").read_bytes())
    files = [path for path in (copy / "checkpoints/20/params").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    for offset in range(len(content) // 4, len(content) // 2, 50):
        content[offset] ^= 1
    gcs_emulator.write(bucket_server, f"{run}/{largest.relative_to(copy)}", bytes(content))
    read = run_process("inspect", run, "--json")
    assert json.loads(read.stdout)["step"] == 15, read.stderr
    assert steps_saved(bucket_server, run) == [15, 20]
    result = run_process(*arguments(config, run, tmp_path))
    assert result.returncode == 0, result.stderr
    assert "checkpoint 20 is damaged" in result.stderr
    assert "checkpoint 20 is kept as 20.damaged" in result.stderr
    assert "resuming at step 15" in result.stderr
    assert inspected(run)["digest"] == inspected(trained)["digest"]
    renamed = f"checkpoints/20.damaged/{largest.relative_to(copy / 'checkpoints/20')}"
    assert gcs_emulator.read(bucket_server, f"{run}/{renamed}") == content


def test_a_folder_with_other_things_is_refused(
    bucket_server: str, bucket: str, config: RunConfig, tmp_path: Path
) -> None:
    gcs_emulator.write(bucket_server, f"{bucket}/run/letter.txt", b"Dear")
    refused(run_process(*arguments(config, f"{bucket}/run", tmp_path)), 78, "letter.txt")
    assert gcs_emulator.names(bucket_server, f"{bucket}/run") == ["letter.txt"]


@pytest.mark.full
def test_an_unreachable_bucket_is_reported_in_one_line(
    bucket_server: str, config: RunConfig, tmp_path: Path
) -> None:
    def check(run: str, code: int, *words: str, **variables: str) -> None:
        refused(run_process(*arguments(config, run, tmp_path), **variables), code, *words)
        refused(run_process("inspect", run, **variables), code, *words)

    check("gs://no-such-bucket/run", 78, "gs://no-such-bucket", "gcloud storage buckets create")
    gcs_emulator.make_bucket(bucket_server, "refused-one")
    check("gs://refused-one/run", 78, "gs://refused-one", "Storage Object Admin")
    (tmp_path / "gcsfs.py").write_text("raise ModuleNotFoundError(name='gcsfs')\n")
    check("gs://finished/run", 78, "gcsfs", "bert-jax[cloud]", PYTHONPATH=str(tmp_path))
    refused(run_process("inspect", "gs:///run"), 78, "no bucket")
    converted = ("convert", MODEL, "gs://finished/out", "--to", "hf")
    refused(run_process(*converted), 78, "OUT gs://finished/out must be a local folder")


def test_a_foreign_model_in_a_bucket_must_be_copied(bucket_server: str, bucket: str) -> None:
    gcs_emulator.upload(bucket_server, MODEL, f"{bucket}/theirs")
    refused(run_process("inspect", f"{bucket}/theirs"), 78, "gcloud storage cp -r")


@pytest.mark.full
def test_fine_tuning_in_a_bucket(bucket_server: str, bucket: str, tmp_path: Path) -> None:
    train = classification.write(tmp_path / "train.csv", 24, 0)
    words = ["finetune", "classification", "--init", MODEL, "--data.train", train]
    words += ["--data.validation", train, "--data.length", "16", "--train.epochs", "1"]
    result = run_process(*words, "--run_dir", f"{bucket}/run")
    assert result.returncode == 0, result.stderr
    copy = gcs_emulator.download(bucket_server, f"{bucket}/run", tmp_path / "copy")
    assert "accuracy" in json.loads((copy / "eval_results.json").read_text())
    assert len((copy / PREDICTIONS).read_text().splitlines()) == 24
    out = tmp_path / "out.jsonl"
    predicted = run_process("predict", f"{bucket}/run", "--input", train, "--output", out)
    assert predicted.returncode == 0, predicted.stderr


class UnreliableObject:
    """A path in a bucket that is unreachable while `fails` is true."""

    def __init__(self) -> None:
        self.content = b""
        self.fails = True
        self.written = threading.Event()

    def __str__(self) -> str:
        return "gs://bucket/file"

    def write_bytes(self, content: bytes) -> None:
        self.written.set()
        if self.fails:
            raise aiohttp.ClientConnectionError("no response")
        self.content = content


def test_appended_lines_wait_until_the_bucket_is_reachable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bucket_append, "PERIOD", 0.01)
    path = UnreliableObject()
    file = AppendedObject(cast(Path, path), b"one\n")
    file.write(b"two\n")
    path.written.wait(10)
    with pytest.raises(UserError, match="gs://bucket/file: no response"):
        file.flush()
    path.fails = False
    file.flush()
    assert path.content == b"one\ntwo\n"
    file.write(b"three\n")
    file.close()
    assert path.content == b"one\ntwo\nthree\n"
    assert "gs://bucket/file: no response; run the same command again" in capsys.readouterr().err


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
def test_failures_of_the_bucket_are_recognized(error: Exception, code: int | None) -> None:
    explanation = explained(error)
    assert (explanation.exit_code if explanation else None) == code
    assert isinstance(explanation, BadInputError) == (code == 78)


def test_no_token_is_printed() -> None:
    explanation = explained(
        aiohttp.ClientError("GET https://x.y/z?access_token=secret&a=b (no answer)")
    )
    assert str(explanation).startswith("Google Cloud Storage: GET https://x.y/z (no answer); run")


def test_local_paths_are_those_of_pathlib(tmp_path: Path) -> None:
    for name in ("", "runs/tiny", "/a/b", "s3://bucket/x", tmp_path):
        assert at(name) == Path(name)
        assert not is_remote(at(name))


# Lists a folder before and after another program writes to it.
LISTING = """
import sys
from bert_jax.runtime.paths import at
from support import gcs_emulator
url, folder = sys.argv[1:]
for name in ("a", "b"):
    gcs_emulator.write(url, f"{folder}/{name}", b"content")
    print(sorted(path.name for path in at(folder).iterdir()))
"""


def test_files_of_other_programs_are_visible_at_once(bucket_server: str, bucket: str) -> None:
    result = run_python(LISTING, bucket_server, f"{bucket}/folder")
    assert result.stdout.splitlines() == ["['a']", "['a', 'b']"], result.stderr


@pytest.mark.full
def test_the_initial_values_of_a_run_in_a_bucket_are_those_of_a_disk(
    bucket: str, config_base: RunConfig, tmp_path: Path
) -> None:
    """The second session reads them; a resumed run does not compute them again."""
    model = replace(config_base.model, initialization="corpus", hidden_size=32)
    stopped = replace(config_base.train, steps=2)
    digests = []
    for run in (f"{bucket}/run", str(tmp_path / "run")):
        for train in (stopped, replace(stopped, steps=4)):
            config = replace(config_base, run_dir=run, model=model, train=train)
            result = run_process("pretrain", "--config", write_config(config, tmp_path))
            assert result.returncode == 0, result.stderr
        assert "initial values from" not in result.stderr
        digests.append(inspected(run)["digest"])
    assert digests[0] == digests[1]
