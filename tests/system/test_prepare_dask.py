"""Preparing a corpus on a cluster of Dask, whose scheduler and workers are processes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipelines.data.sources.corpora import open_corpus
from pipelines.data.store import dask_runner
from pipelines.data.store.prepare import prepare
from pipelines.data.store.shards import RECORD, Job, Recipe, make_shard
from pipelines.data.store.token_store import LEDGER, TOKENIZER, WORK
from support.commands import invoke, refused, start
from support.corpora import compressed, content, write_many
from support.dask_cluster import DaskCluster, dask_cluster
from support.ports import free_address

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

FINISHED = f"{WORK}/*/{RECORD}"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of 24 megabytes, for twelve blocks."""
    return write_many(tmp_path_factory.mktemp("text") / "text.txt", 40_000)


@pytest.fixture(scope="module")
def whole(text: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `text`, made by one process."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    prepare([f"text:{text}"], tokenizer_dir, folder, 0.1)
    return folder


def arguments(text: Path, tokenizer_dir: Path, out: Path) -> tuple[str | Path, ...]:
    return (
        "prepare", "--corpus", f"text:{text}", "--tokenizer", tokenizer_dir, "--out", out,
        "--held-out", "0.1",
    )  # fmt: skip


def on(cluster: DaskCluster) -> tuple[str, ...]:
    return ("--runner", "dask", "--", "--scheduler", cluster.address)


def started(cluster: DaskCluster, *base: str | Path, out: Path) -> subprocess.Popen[str]:
    """Start `prepare` on the cluster and wait for its first block."""
    process = start(*base, *on(cluster))
    while not list(out.glob(FINISHED)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


def test_a_cluster_reads_relative_names_and_reports_a_wrong_corpus(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """The workers were started in another folder."""
    prepare([f"text:{corpus.name}"], tokenizer_dir, tmp_path / "one", 0.1) if False else None
    (tmp_path / "bad.jsonl").write_text('{"text": "One is told."}\n{"body": 1}\n')
    (tmp_path / "a.txt").write_bytes(corpus.read_bytes())
    options = ("--tokenizer", tokenizer_dir, "--held-out", "0.1")
    with dask_cluster(tmp_path / "cluster", 1) as cluster:
        for out, runner in (("one", ()), ("many", on(cluster))):
            words = ("prepare", "--corpus", "text:a.txt", "--out", out, *options, *runner)
            result = invoke(*words, folder=tmp_path)
            assert result.returncode == 0, result.stderr
        assert "MB/s" in result.stderr
        assert content(tmp_path / "one") == content(tmp_path / "many")
        words = ("prepare", "--corpus", "jsonl:bad.jsonl", "--out", "bad", *options)
        refused(invoke(*words, *on(cluster), folder=tmp_path), 78, "bad.jsonl, line 2", "text")
        assert not (tmp_path / "bad").exists()


def test_a_worker_reads_the_tokenizer_of_each_store(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """The second store has the path of the first one, but another tokenizer."""
    words = ("train-tokenizer", "--corpus", f"text:{corpus}", "--out", tmp_path / "wp")
    assert invoke(*words, "--vocab-size", "90", "--kind", "wordpiece").returncode == 0
    prepare([f"text:{corpus}"], tmp_path / "wp", tmp_path / "one", 0.1)
    out = tmp_path / "store"
    with dask_cluster(tmp_path / "cluster", 1) as cluster:
        for tokenizer in (tokenizer_dir, tmp_path / "wp"):
            shutil.rmtree(out, ignore_errors=True)
            result = invoke(*arguments(corpus, tokenizer, out), *on(cluster))
            assert result.returncode == 0, result.stderr
    assert content(out) == content(tmp_path / "one")


def test_a_block_that_two_workers_finish_is_kept(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path, Recipe(0.1, "en", (True,), 0, True))
    job.work.mkdir()
    shutil.copytree(tokenizer_dir, job.work / TOKENIZER)
    [block] = open_corpus(f"text:{corpus}").blocks(0)
    first = make_shard(job, block)
    times = {path: path.stat().st_mtime_ns for path in (job.work / block.name).iterdir()}
    assert make_shard(job, block) == first
    assert {path: path.stat().st_mtime_ns for path in (job.work / block.name).iterdir()} == times
    assert not list(job.work.glob("*.tmp"))


def test_wrong_options_of_a_cluster_are_refused(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_runner, "_PATIENCE", 2.0)
    base = arguments(corpus, tokenizer_dir, tmp_path / "store")
    refused(invoke(*base, "--runner", "dask"), 64, "--scheduler tcp://")
    refused(invoke(*base, "--", "--scheduler", "tcp://a:1"), 64, "needs --runner beam or dask")
    words = ("--runner", "dask", "--", "--scheduler")
    refused(invoke(*base, *words, "a://b:1"), 64, "--scheduler a://b:1")
    address = f"tcp://{free_address()}"
    refused(invoke(*base, *words, address), 1, f"no Dask scheduler responds at {address}")
    with dask_cluster(tmp_path / "cluster", 0) as cluster:
        refused(invoke(*base, *on(cluster)), 1, "has no workers", f"dask worker {cluster.address}")


@pytest.mark.full
def test_workers_with_other_packages_are_refused(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "pipelines").mkdir(parents=True)
    (tmp_path / "other" / "pipelines" / "__init__.py").write_text("raise ImportError('old')")
    words = arguments(corpus, tokenizer_dir, tmp_path / "store")
    with dask_cluster(tmp_path / "cluster", 1) as cluster, monkeypatch.context() as patch:
        versions = dask_runner._versions() | {"tokenizers": "0.1"}
        patch.setattr(dask_runner, "_versions", lambda: versions)
        refused(invoke(*words, *on(cluster)), 78, "tokenizers", "this machine 0.1")
    older = ("env", f"PYTHONPATH={tmp_path}/other")
    with dask_cluster(tmp_path / "second", 1, older) as cluster:
        refused(invoke(*words, *on(cluster)), 78, "cannot load bert-jax", "bert-jax[dask]==")


@pytest.mark.full
def test_a_block_of_a_compressed_file_carries_its_text_to_a_worker(
    text: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    packed = compressed(text, ".zst")
    prepare([f"text:{packed}"], tokenizer_dir, tmp_path / "one", 0.1)
    with dask_cluster(tmp_path / "cluster", 2) as cluster:
        result = invoke(*arguments(packed, tokenizer_dir, tmp_path / "many"), *on(cluster))
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert content(tmp_path / "one") == content(tmp_path / "many")


@pytest.mark.full
def test_a_killed_worker_loses_nothing(
    text: Path, whole: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    with dask_cluster(tmp_path / "cluster", 2) as cluster:
        process = started(cluster, *arguments(text, tokenizer_dir, out), out=out)
        cluster.workers[0].kill()
        output = process.communicate(timeout=120)[1]
        assert process.returncode == 0, output
        assert cluster.workers[0].wait() == -signal.SIGKILL
    assert content(out) == content(whole)


@pytest.mark.full
@pytest.mark.parametrize("runner", ["dask", "local"])
def test_a_lost_scheduler_ends_in_a_remedy_and_keeps_finished_blocks(
    text: Path, whole: Path, tokenizer_dir: Path, tmp_path: Path, runner: str
) -> None:
    out = tmp_path / "store"
    base = arguments(text, tokenizer_dir, out)
    with dask_cluster(tmp_path / "cluster", 2) as cluster:
        process = started(cluster, *base, out=out)
        cluster.scheduler.kill()
        output = process.communicate(timeout=60)[1]
        result = subprocess.CompletedProcess((), process.returncode, "", output)
        refused(result, 1, f"the Dask scheduler {cluster.address} was lost", "same command again")
        assert "distributed" not in output
    kept = {path: path.stat().st_mtime_ns for path in out.glob(FINISHED)}
    assert kept
    assert not (out / LEDGER).exists()
    if runner == "local":
        result = invoke(*base)
    else:
        with dask_cluster(tmp_path / "second", 2) as cluster:
            result = invoke(*base, *on(cluster))
    assert result.returncode == 0, result.stderr
    assert f"resuming after {len(kept)} finished block(s)" in result.stderr
    assert content(out) == content(whole)


@pytest.mark.full
def test_a_block_that_ends_every_worker_is_named(tokenizer_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("It is told. " * 2_000_000, "utf-8")  # a block of seconds
    with dask_cluster(tmp_path / "cluster", 0) as cluster:
        process = start(*arguments(text, tokenizer_dir, tmp_path / "store"), *on(cluster))
        cluster.wait_for_log("Receive client connection")
        for _ in range(4):
            cluster.add_worker()
            cluster.wait_for_workers()
            time.sleep(0.5)
            cluster.workers[-1].kill()
        output = process.communicate(timeout=60)[1]
    result = subprocess.CompletedProcess((), process.returncode, "", output)
    refused(result, 1, "block 00-00000", "a.txt", "ended 4 Dask workers", "--nthreads")


@pytest.mark.full
def test_a_worker_without_the_store_is_refused(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    hidden = f'mount -t tmpfs none {tmp_path}/shared && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", hidden, "sh")
    if subprocess.run((*prefix, "true"), capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    with dask_cluster(tmp_path / "cluster", 0) as cluster:
        cluster.add_worker(prefix)
        cluster.wait_for_workers()
        words = arguments(corpus, tokenizer_dir, tmp_path / "shared" / "store")
        refused(invoke(*words, *on(cluster)), 78, "shared/store/work", "same paths")
