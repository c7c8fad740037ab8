"""Local copies of stores, made once per machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import BadInputError, UserError
from pipelines.data.store.store_cache import STORES, copy_store, ensure_local
from pipelines.data.store.token_store import LEDGER, Store
from support import gcs_emulator
from support.commands import ROOT, command, refused, run_process, small_disk, write_config
from support.jobs import start_two, wait_for_all
from support.waiting import wait_until

pytest_plugins = ["support.buckets"]

COPY = "import sys; from pathlib import Path; from pipelines.data.store.store_cache import"
COPY += " copy_store; copy_store(sys.argv[1], Path(sys.argv[2]))"


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def inodes(folder: Path) -> dict[str, int]:
    """Return the inode of each file, which changes when a file is replaced."""
    return {path.name: path.stat().st_ino for path in folder.glob("*.npy")}


def start_copy(source: Path, target: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", COPY, str(source), str(target)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.fixture
def source(store_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_dir, tmp_path / "source"))


@pytest.fixture
def pipe(source: Path) -> tuple[Path, bytes]:
    """Replace a file of the store with a pipe; return its path and content."""
    file = max(source.glob("train-*.tokens.npy"))
    content = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    return file, content


def wait_for_all_but(pipe: Path, target: Path) -> None:
    names = {path.name for path in pipe.parent.glob("*.npy")} - {pipe.name}
    wait_until(lambda: inodes(target).keys() == names)


def test_a_copy_is_the_store_and_is_made_once(source: Path, tmp_path: Path) -> None:
    target = copy_store(str(source), tmp_path / "a" / "copy")
    Store(target).verify_all()
    assert Store(target).ledger.digest == Store(source).ledger.digest
    assert contents(target) == contents(source)
    before = inodes(target)
    assert copy_store(str(source), target) == target
    assert inodes(target) == before


def test_an_interrupted_copy_is_no_store_and_resumes(
    source: Path, pipe: tuple[Path, bytes], tmp_path: Path
) -> None:
    file, content = pipe
    process = start_copy(source, tmp_path / "copy")
    wait_for_all_but(file, tmp_path / "copy")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(BadInputError, match="not a finished token store"):
        Store(tmp_path / "copy")
    before = inodes(tmp_path / "copy")
    file.unlink()
    file.write_bytes(content)
    copy_store(str(source), tmp_path / "copy")
    after = inodes(tmp_path / "copy")
    assert {name: after[name] for name in before} == before
    assert contents(tmp_path / "copy") == contents(source)


def test_one_of_two_processes_copies(
    source: Path, pipe: tuple[Path, bytes], tmp_path: Path
) -> None:
    file, content = pipe
    target = tmp_path / "copy"
    first = start_copy(source, target)
    wait_for_all_but(file, target)
    second = start_copy(source, target)
    assert second.stderr is not None
    assert "waiting for another process" in second.stderr.readline()
    file.write_bytes(content)  # read by the first process
    for process, copies in ((first, True), (second, False)):
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert (": copying about" in stderr) == copies
    Store(target).verify_all()


def test_a_damaged_source_is_refused_and_not_kept(source: Path, tmp_path: Path) -> None:
    damaged = max(source.glob("*.sentences.npy"))
    flip(damaged)
    with pytest.raises(BadInputError, match=f"{damaged.name} does not match the ledger"):
        copy_store(str(source), tmp_path / "copy")
    assert not (tmp_path / "copy" / damaged.name).exists()
    assert not list((tmp_path / "copy").glob("*.part"))
    assert not (tmp_path / "copy" / LEDGER).exists()
    damaged.unlink()
    with pytest.raises(BadInputError, match=f"{damaged.name} is missing"):
        copy_store(str(source), tmp_path / "copy")


def test_a_damaged_copy_is_repaired(source: Path, tmp_path: Path) -> None:
    target = copy_store(str(source), tmp_path / "copy")
    before = inodes(target)
    damaged = max(target.glob("*.documents.npy"))
    flip(damaged)
    shutil.rmtree(target / "tokenizer")
    copy_store(str(source), target)
    assert contents(target) == contents(source)
    changed = {name for name, inode in inodes(target).items() if inode != before[name]}
    assert changed == {damaged.name}


def test_another_tokenizer_or_another_store_is_refused(source: Path, tmp_path: Path) -> None:
    flip(source / "tokenizer" / "sentencepiece.model")
    with pytest.raises(BadInputError):
        copy_store(str(source), tmp_path / "copy")
    with pytest.raises(BadInputError, match="not a finished token store"):
        Store(tmp_path / "copy")
    ledger = source / LEDGER
    (tmp_path / "other").mkdir()
    other = ledger.read_text().replace('"duplicates": 0', '"duplicates": 1')
    assert other != ledger.read_text()
    (tmp_path / "other" / LEDGER).write_text(other)
    with pytest.raises(BadInputError, match="contains another store than"):
        copy_store(str(source), tmp_path / "other")
    with pytest.raises(BadInputError, match="not a finished token store"):
        copy_store(str(tmp_path), tmp_path / "third")


def test_a_full_disk_is_reported_in_one_line(source: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=16k") as disk:
        with pytest.raises(UserError, match=r"the disk is full.*BERT_JAX_STORES") as raised:
            copy_store(str(source), disk / "copy")
        assert raised.value.exit_code == 1
        assert not (disk / "copy" / LEDGER).exists()


def test_a_local_store_is_not_copied(store_dir: Path) -> None:
    assert ensure_local(str(store_dir)) == store_dir
    assert ensure_local("") == Path()


def test_a_run_copies_its_store_from_a_bucket(
    bucket_server: str, store_dir: Path, config: RunConfig, tmp_path: Path
) -> None:
    store = gcs_emulator.upload(
        bucket_server, store_dir, f"{gcs_emulator.make_bucket(bucket_server, 'stores')}/corpus"
    )
    words = ("pretrain", "--config", write_config(config, tmp_path))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = run_process(*words, "--data.store", store, **cache)
    assert result.returncode == 0, result.stderr
    (copy,) = (tmp_path / "cache/bert-jax/stores").iterdir()
    assert copy.name == Store(store_dir).ledger.digest[:16]
    assert contents(copy) == contents(store_dir)
    # Resume with the local copy instead of the bucket.
    before = inodes(copy)
    longer = run_process(*words, "--train.steps", "21")
    assert longer.returncode == 0, longer.stderr
    assert "resuming at step 20" in longer.stderr
    evaluated = run_process("evaluate", config.run_dir, "--store", store, "--json", **cache)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "copied" not in evaluated.stderr
    assert inodes(copy) == before


@pytest.mark.full
def test_two_processes_of_a_host_share_a_copy(
    bucket_server: str,
    store_dir: Path,
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = gcs_emulator.upload(
        bucket_server, store_dir, f"{gcs_emulator.make_bucket(bucket_server, 'shared')}/corpus"
    )
    monkeypatch.setenv(STORES, str(tmp_path / "stores"))
    short = replace(config, data=replace(config.data, store=store))
    words = command("pretrain", "--config", write_config(short, tmp_path), "--train.steps", "2")
    results = wait_for_all(start_two(words))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    (copy,) = (tmp_path / "stores").iterdir()
    assert contents(copy) == contents(store_dir)


def test_a_damaged_store_in_a_bucket_ends_with_78(
    bucket_server: str,
    source: Path,
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STORES, str(tmp_path / "stores"))
    bucket = gcs_emulator.make_bucket(bucket_server, "damaged")
    damaged = max(source.glob("*.tokens.npy"))
    flip(damaged)
    store = gcs_emulator.upload(bucket_server, source, f"{bucket}/corpus")
    words = ("pretrain", "--config", write_config(config, tmp_path), "--data.store")
    refused(run_process(*words, store), 78, f"{store}/{damaged.name}", "SHA-256")
    refused(
        run_process(*words, f"{bucket}/none"), 78, f"{bucket}/none", "not a finished token store"
    )
    refused(run_process(*words, "gs://no-such-bucket/x"), 78, "gs://no-such-bucket does not exist")
