"""Stores that are copied to the disk of this machine once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import BadInputError, UserError
from pipelines.data.store.store_cache import STORES, ensure_local, placed
from pipelines.data.store.token_store import LEDGER, Store
from support import gcs_emulator
from support.commands import ROOT, command, refused, run_process, small_disk, write_config
from support.jobs import both, ended

PLACE = "import sys; from pathlib import Path; from pipelines.data.store.store_cache import placed;"
PLACE += "placed(sys.argv[1], Path(sys.argv[2]))"


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def numbers(folder: Path) -> dict[str, int]:
    """Of the files: another one under the same name has another."""
    return {path.name: path.stat().st_ino for path in folder.glob("*.npy")}


def started(source: Path, target: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PLACE, str(source), str(target)],
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
def slow(source: Path) -> tuple[Path, bytes]:
    """A file of the store whose content comes when somebody writes it, and that content."""
    file = max(source.glob("train-*.tokens.npy"))
    content = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    return file, content


def wait_for_all_but(slow: Path, target: Path) -> None:
    wanted = {path.name for path in slow.parent.glob("*.npy")} - {slow.name}
    while numbers(target).keys() != wanted:
        time.sleep(0.02)


def test_a_copy_is_the_store_and_is_made_once(source: Path, tmp_path: Path) -> None:
    target = placed(str(source), tmp_path / "a" / "copy")
    Store(target).verify_all()
    assert Store(target).ledger.digest == Store(source).ledger.digest
    assert contents(target) == contents(source)
    before = numbers(target)
    assert placed(str(source), target) == target
    assert numbers(target) == before


def test_an_interrupted_copy_is_no_store_and_goes_on(
    source: Path, slow: tuple[Path, bytes], tmp_path: Path
) -> None:
    file, content = slow
    process = started(source, tmp_path / "copy")
    wait_for_all_but(file, tmp_path / "copy")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(BadInputError, match="not a finished token store"):
        Store(tmp_path / "copy")
    before = numbers(tmp_path / "copy")
    file.unlink()
    file.write_bytes(content)
    placed(str(source), tmp_path / "copy")
    after = numbers(tmp_path / "copy")
    assert {name: after[name] for name in before} == before
    assert contents(tmp_path / "copy") == contents(source)


def test_of_two_processes_one_copies(
    source: Path, slow: tuple[Path, bytes], tmp_path: Path
) -> None:
    file, content = slow
    target = tmp_path / "copy"
    first = started(source, target)
    wait_for_all_but(file, target)
    second = started(source, target)
    assert second.stderr is not None
    assert "waiting for another process" in second.stderr.readline()
    file.write_bytes(content)  # to the one that reads
    for process, copies in ((first, True), (second, False)):
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert ("are copied to" in said) == copies
    Store(target).verify_all()


def test_a_damaged_source_is_refused_and_nothing_of_it_is_kept(
    source: Path, tmp_path: Path
) -> None:
    damaged = max(source.glob("*.sentences.npy"))
    flip(damaged)
    with pytest.raises(BadInputError, match=f"{damaged.name} is not what the ledger says"):
        placed(str(source), tmp_path / "copy")
    assert not (tmp_path / "copy" / damaged.name).exists()
    assert not list((tmp_path / "copy").glob("*.part"))
    assert not (tmp_path / "copy" / LEDGER).exists()
    damaged.unlink()
    with pytest.raises(BadInputError, match=f"{damaged.name} is missing"):
        placed(str(source), tmp_path / "copy")


def test_a_damaged_copy_is_mended(source: Path, tmp_path: Path) -> None:
    target = placed(str(source), tmp_path / "copy")
    before = numbers(target)
    damaged = max(target.glob("*.documents.npy"))
    flip(damaged)
    shutil.rmtree(target / "tokenizer")
    placed(str(source), target)
    assert contents(target) == contents(source)
    changed = {name for name, number in numbers(target).items() if number != before[name]}
    assert changed == {damaged.name}


def test_another_tokenizer_or_another_store_is_refused(source: Path, tmp_path: Path) -> None:
    flip(source / "tokenizer" / "sentencepiece.model")
    with pytest.raises(BadInputError):
        placed(str(source), tmp_path / "copy")
    with pytest.raises(BadInputError, match="not a finished token store"):
        Store(tmp_path / "copy")
    ledger = source / LEDGER
    (tmp_path / "other").mkdir()
    other = ledger.read_text().replace('"duplicates": 0', '"duplicates": 1')
    assert other != ledger.read_text()
    (tmp_path / "other" / LEDGER).write_text(other)
    with pytest.raises(BadInputError, match="is another store than"):
        placed(str(source), tmp_path / "other")
    with pytest.raises(BadInputError, match="not a finished token store"):
        placed(str(tmp_path), tmp_path / "third")


def test_a_full_disk_is_one_line(source: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=16k") as disk:
        with pytest.raises(UserError, match=r"the disk is full.*BERT_JAX_STORES") as raised:
            placed(str(source), disk / "copy")
        assert raised.value.exit_code == 1
        assert not (disk / "copy" / LEDGER).exists()


def test_a_local_store_is_used_where_it_is(store_dir: Path) -> None:
    assert ensure_local(str(store_dir)) == store_dir
    assert ensure_local("") == Path()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, gcs_emulator.emulator() as (address, variables):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield address


def test_a_run_copies_its_store_from_a_bucket(
    url: str, store_dir: Path, config: RunConfig, tmp_path: Path
) -> None:
    store = gcs_emulator.upload(
        url, store_dir, f"{gcs_emulator.make_bucket(url, 'stores')}/stories"
    )
    words = ("pretrain", "--config", write_config(config, tmp_path))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = run_process(*words, "--data.store", store, **cache)
    assert result.returncode == 0, result.stderr
    (copy,) = (tmp_path / "cache/bert-jax/stores").iterdir()
    assert copy.name == Store(store_dir).ledger.digest[:16]
    assert contents(copy) == contents(store_dir)
    # The same run with the store it began with, by another name.
    before = numbers(copy)
    longer = run_process(*words, "--train.steps", "21")
    assert longer.returncode == 0, longer.stderr
    assert "resuming at step 20" in longer.stderr
    found = run_process("evaluate", config.run_dir, "--store", store, "--json", **cache)
    assert found.returncode == 0, found.stderr
    assert "copied" not in found.stderr
    assert numbers(copy) == before


@pytest.mark.full
def test_two_processes_of_a_host_share_a_copy(
    url: str, store_dir: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = gcs_emulator.upload(
        url, store_dir, f"{gcs_emulator.make_bucket(url, 'shared')}/stories"
    )
    monkeypatch.setenv(STORES, str(tmp_path / "stores"))
    short = replace(config, data=replace(config.data, store=store))
    words = command("pretrain", "--config", write_config(short, tmp_path), "--train.steps", "2")
    results = ended(both(words))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    (copy,) = (tmp_path / "stores").iterdir()
    assert contents(copy) == contents(store_dir)


def test_a_damaged_store_in_a_bucket_ends_with_78(
    url: str, source: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORES, str(tmp_path / "stores"))
    bucket = gcs_emulator.make_bucket(url, "damaged")
    damaged = max(source.glob("*.tokens.npy"))
    flip(damaged)
    store = gcs_emulator.upload(url, source, f"{bucket}/stories")
    words = ("pretrain", "--config", write_config(config, tmp_path), "--data.store")
    refused(run_process(*words, store), 78, f"{store}/{damaged.name}", "SHA-256")
    refused(
        run_process(*words, f"{bucket}/none"), 78, f"{bucket}/none", "not a finished token store"
    )
    refused(run_process(*words, "gs://no-such-bucket/x"), 78, "no bucket gs://no-such-bucket")
