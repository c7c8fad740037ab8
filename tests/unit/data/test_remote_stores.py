"""Preparing stores from servers and in buckets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bert_jax.runtime.errors import UnreachableError
from pipelines.data.sources import corpora, remote
from pipelines.data.sources.corpora import Corpus
from pipelines.data.sources.locations import find
from pipelines.data.store import beam_runner
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import LEDGER, WORK
from pipelines.data.store.upload import upload_store
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.fetch import tokenizer_folder
from support import gcs_emulator, s3_server
from support.commands import invoke, refused, run_process
from support.corpora import content, write_corpus
from support.faulty_proxy import faulty_proxy
from support.file_server import file_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of two files in two folders."""
    data = tmp_path_factory.mktemp("servers") / "data"
    (data / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt"):
        write_corpus(data / name, 30, seed=len(name))
    return data


@pytest.fixture(scope="module")
def servers(folder: Path, tokenizer_dir: Path) -> Iterator[dict[str, str]]:
    """URLs of an HTTP server, an S3 and a Google Cloud Storage that clients find."""
    with ExitStack() as stack:
        http = stack.enter_context(file_server(folder.parent))
        s3 = stack.enter_context(s3_server.s3_server())
        gs, variables = stack.enter_context(gcs_emulator.emulator())
        s3_server.upload(s3, folder, "s3://bucket/data")
        s3_server.upload(s3, tokenizer_dir, "s3://bucket/run/tokenizer")
        gcs_emulator.make_bucket(gs, "bucket")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(remote, "_FIRST_WAIT", 0.02)
        for name, value in (variables | s3_server.variables(s3)).items():
            patch.setenv(name, value)
        remote._file_system.cache_clear()
        yield {"http": http, "s3": s3, "gs": gs}
    remote._file_system.cache_clear()


def prepared(corpus: str, tokenizer_dir: Path, out: Path, workers: int) -> dict[str, bytes]:
    """Run ``prepare``; return the files of the store."""
    words = ("prepare", "--corpus", corpus, "--tokenizer", tokenizer_dir, "--out", out)
    result = (run_process if workers > 1 else invoke)(*words, "--workers", str(workers))
    assert result.returncode == 0, result.stderr
    paths = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@pytest.mark.full  # ten seconds
@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_prepare_makes_the_same_store_with_workers(
    servers: dict[str, str],
    folder: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
) -> None:
    def is_body(method: str, path: str) -> bool:
        return method == "GET" and ".txt" in path

    expected = prepared(f"text:{folder}/**/*.txt", tokenizer_dir, tmp_path / "local", 1)
    with faulty_proxy(servers[protocol], "reset in body", is_affected=is_body) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        base = "s3://bucket/data" if protocol == "s3" else f"{proxy.url}/data"
        store = prepared(f"text:{base}/**/*.txt", tokenizer_dir, tmp_path / "remote", 2)
        assert proxy.injected >= 2
    assert store.keys() == expected.keys()
    different_files = {name for name in store if store[name] != expected[name]}
    assert different_files <= {"ledger.json", "card.md", "card.json"}
    ledgers = [json.loads(files["ledger.json"]) for files in (store, expected)]
    different = {name for name in ledgers[0] if ledgers[0][name] != ledgers[1][name]}
    assert different == {"corpus", "files"}


def test_a_tokenizer_at_a_url(servers: dict[str, str], tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with file_server(tokenizer_dir.parent) as http:
        for url in (
            "s3://bucket/run",
            "s3://bucket/run/tokenizer/",
            f"{http}/{tokenizer_dir.name}",
        ):
            with tokenizer_folder(url) as copy:
                assert tokenizers.load(copy).digest == tokenizers.load(tokenizer_dir).digest
    words = ("prepare", "--corpus", "python-docs", "--out", tmp_path / "store")
    refused(invoke(*words, "--tokenizer", "s3://bucket/data"), 78, "s3://bucket/data has neither")
    s3_server.upload(servers["s3"], _damaged(tmp_path / "damaged"), "s3://bucket/damaged")
    refused(invoke(*words, "--tokenizer", "s3://bucket/damaged"), 78, "s3://bucket/damaged/")


def _damaged(folder: Path) -> Path:
    folder.mkdir()
    (folder / "sentencepiece.model").write_bytes(b"damaged")
    return folder


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [("truncated", 1, "run the same command again"), ("403", 78, "access is denied")],
)
def test_failures_while_text_is_read_end_with_a_line(
    servers: dict[str, str],
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    code: int,
    words: str,
) -> None:
    def is_second_file(method: str, path: str) -> bool:
        return method == "GET" and "b.txt" in path

    monkeypatch.setattr(remote, "_PATIENCE", 0.2)
    with faulty_proxy(servers["http"], fault, always=True, is_affected=is_second_file) as proxy:
        corpus, out = f"text:{proxy.url}/data/**/*.txt", tmp_path / "store"
        options = ("--corpus", corpus, "--tokenizer", tokenizer_dir, "--out", out)
        result = invoke("prepare", *options, "--workers", "1")
    refused(result, code, f"{proxy.url}/data/deep/b.txt", words)
    assert not (out / "ledger.json").exists()


@pytest.mark.full  # starts processes
def test_a_failure_in_a_worker_ends_with_a_line(
    servers: dict[str, str], tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_range = remote.read_range

    def without_faults(url: str, *span: int) -> bytes:  # in this process, which cuts the files
        proxy.fault = ""
        data = read_range(url, *span)
        proxy.fault = "403"
        return data

    monkeypatch.setattr(remote, "read_range", without_faults)
    with faulty_proxy(
        servers["http"], "403", always=True, is_affected=lambda method, path: "b.txt" in path
    ) as proxy:
        proxy.fault = ""
        corpus, out = f"text:{proxy.url}/data/**/*.txt", tmp_path / "store"
        options = ("--corpus", corpus, "--tokenizer", tokenizer_dir, "--out", out)
        result = invoke("prepare", *options, "--workers", "2")
        assert proxy.injected == 1
    refused(result, 78, f"{proxy.url}/data/deep/b.txt", "access is denied")
    assert not (out / "ledger.json").exists()


@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_a_store_in_a_bucket(
    servers: dict[str, str], folder: Path, tokenizer_dir: Path, tmp_path: Path, protocol: str
) -> None:
    out, scratch = f"{protocol}://bucket/{tmp_path.name}/store", tmp_path / "scratch"
    words = ("prepare", "--corpus", f"text:{folder}/**/*.txt", "--workers", "1")
    words += ("--tokenizer", str(tokenizer_dir), "--out", f"{out}/")
    refused(invoke(*words), 64, "--scratch")
    words += ("--scratch", str(scratch))
    assert (result := invoke(*words)).returncode == 0, result.stderr
    names = {str(path.relative_to(scratch)) for path in scratch.rglob("*") if path.is_file()}
    files = {file.name.removeprefix(f"{out}/"): file for file in find(f"{out}/**")}
    assert files.keys() == names
    for name, file in files.items():
        with file.open() as content:
            assert content.read() == (scratch / name).read_bytes()
    assert "already exists" in invoke(*words).stderr
    other = (*words[:-1], str(tmp_path / "other"))
    refused(invoke(*other), 78, "is a store already")
    text = f"{protocol}://bucket/{tmp_path.name}"
    refused(invoke(*[text if word == f"{out}/" else word for word in words]), 78, "other files")


def test_an_unfinished_upload_is_no_store(
    servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PATIENCE", 0.2)
    scratch, out = tmp_path / "store", f"s3://bucket/{tmp_path.name}"
    scratch.mkdir()
    for name in ("a.tokens.npy", "ledger.json", "z.tokens.npy"):
        (scratch / name).write_bytes(name.encode() * 1000)

    def is_last(method: str, path: str) -> bool:
        return method == "PUT" and "z.tokens" in path

    with faulty_proxy(servers["s3"], "503", always=True, is_affected=is_last) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        remote._file_system.cache_clear()
        with pytest.raises(UnreachableError, match="run the same command again"):
            upload_store(scratch, out)
    monkeypatch.setenv("AWS_ENDPOINT_URL", servers["s3"])
    remote._file_system.cache_clear()
    assert [file.name for file in find(f"{out}/*")] == [f"{out}/a.tokens.npy"]
    upload_store(scratch, out)
    assert [file.size for file in find(f"{out}/*")] == [12_000, 11_000, 12_000]


@pytest.mark.parametrize("out", ["https://127.0.0.1/store", "hf://datasets/a/b"])
def test_only_buckets_are_written(tokenizer_dir: Path, out: str) -> None:
    words = ("prepare", "--corpus", "python-docs", "--tokenizer", tokenizer_dir, "--out", out)
    refused(invoke(*words, "--scratch", "scratch"), 64, "s3://")


def through_bucket(
    corpus: Path, tokenizer_dir: Path, folder: Path, url: str, *options: str
) -> dict[str, bytes]:
    """Prepare a store whose workers share a bucket alone; return its files."""
    prepare([f"text:{corpus}"], tokenizer_dir, folder, 0.2, beam=options, bucket=url)
    upload_store(folder, url)
    assert find(f"{url}/{WORK}/**/*") == []
    assert len(find(f"{url}/{LEDGER}")) == 1
    return content(folder)


def alone(_: object, corpus: Corpus, cut: Callable[..., Any], make: Callable[..., Any]) -> None:
    """Stand in for Beam: cut and make every block in this process."""
    for number in range(len(corpus.sources)):
        for block in cut(number):
            make(block)


@pytest.mark.parametrize("protocol", ["s3", "gs"])
@pytest.mark.usefixtures("servers")
def test_blocks_are_exchanged_through_a_bucket(
    corpus: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
) -> None:
    monkeypatch.setattr(corpora, "_BLOCK_BYTES", (3000, 3000))
    prepare([f"text:{corpus}"], tokenizer_dir, tmp_path / "local", 0.2)
    made: list[str] = []

    def interrupted(_: object, corpus: Corpus, cut: Callable[..., Any], make: Any) -> None:
        for block in islice(cut(0), 2):
            make(block)
        raise UnreachableError("interrupted")

    def counted(_: object, corpus: Corpus, cut: Callable[..., Any], make: Any) -> None:
        alone(_, corpus, cut, lambda block: (made.append(block.name), make(block)))

    url = f"{protocol}://bucket/exchanged"
    monkeypatch.setattr(beam_runner, "_run", interrupted)
    with pytest.raises(UnreachableError):
        through_bucket(corpus, tokenizer_dir, tmp_path / "store", url)
    monkeypatch.setattr(beam_runner, "_run", counted)
    files = through_bucket(corpus, tokenizer_dir, tmp_path / "store", url)
    assert files == content(tmp_path / "local")
    assert made
    assert not {"00-00000", "00-00001"} & set(made)


@pytest.mark.usefixtures("servers")
def test_beam_writes_through_a_bucket(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed")
    prepare([f"text:{corpus}"], tokenizer_dir, tmp_path / "local", 0.2)
    options = (
        "--runner=FnApiRunner",
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=2",
    )
    url = "s3://bucket/beam"
    files = through_bucket(corpus, tokenizer_dir, tmp_path / "store", url, *options)
    assert files == content(tmp_path / "local")
