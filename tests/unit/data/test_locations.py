"""Corpora on servers, with the faults of networks: the same text, or one line."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import fsspec
import pytest

from bert_jax.runtime.errors import BadInputError, UnreachableError, UserError
from pipelines.data.sources import remote
from pipelines.data.sources.locations import find, is_folder
from pipelines.data.sources.registry import open_source
from support import gcs_emulator, s3_server
from support.corpora import compressed, write_corpus
from support.data_servers import data_servers
from support.faulty_proxy import FAULTS, Proxy, faulty_proxy
from support.file_server import file_server
from support.hub_server import DATA_SET, hub_server
from support.row_files import WRITERS

PROTOCOLS = ("http", "s3", "gs")
LARGE = bytes(range(256)) * 36_000  # three requests
ROWS = [{"text": f"Row {row}.\nIt is \u00e9.", "doc": f"d{row // 3}"} for row in range(400)]

# gcsfs waits for seconds before it repeats a request, and so does a client for a server that hangs.
SLOW = [("gs", fault) for fault in FAULTS if fault not in ("reset", "short")]
SLOW += [(protocol, "hang") for protocol in PROTOCOLS]
FAULTS_OF_PROTOCOLS = [
    pytest.param(*case, marks=[pytest.mark.full] if case in SLOW else [])
    for case in product(PROTOCOLS, FAULTS)
]


@dataclass
class Servers:
    """The same folder on a server of each protocol."""

    urls: dict[str, str]
    patch: pytest.MonkeyPatch

    def use(self, protocol: str, url: str) -> str:
        """Make the clients use a server, or a proxy before it; return the URL of the folder."""
        remote._file_system.cache_clear()
        if protocol == "http":
            return f"{url}/data"
        variables = (s3_server if protocol == "s3" else gcs_emulator).variables(url)
        for name, value in variables.items():
            self.patch.setenv(name, value)
        return f"{protocol}://bucket/data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, tables and other files, as on the servers."""
    data = tmp_path_factory.mktemp("servers") / "data"
    (data / "deep" / "deeper").mkdir(parents=True)
    (data / "large.bin").write_bytes(LARGE)
    for name in ("a.txt", "b.txt", ".hidden.txt", "deep/c.txt", "deep/deeper/d.txt"):
        write_corpus(data / name, 30, seed=len(name))
    compressed(data / "a.txt", ".xz")
    for scheme, write in WRITERS.items():
        (data / scheme).mkdir()
        write(data / scheme, ROWS)
    return data


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[dict[str, str]]:
    with data_servers(folder) as addresses:
        yield addresses


@pytest.fixture
def on(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.02)
    yield Servers(servers, monkeypatch)
    remote._file_system.cache_clear()


def text_of(spec: str, size: int = 5000) -> list[list[str]]:
    groups = [group for group, _ in open_source(spec).pieces(size)]
    pieces = [pickle.loads(pickle.dumps(piece)) for group in groups for piece in group]  # noqa: S301
    return [document for piece in pieces for document in piece.documents()]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_patterns_mean_the_same_as_on_disks(on: Servers, folder: Path, protocol: str) -> None:
    base = on.use(protocol, on.urls[protocol])
    for pattern in ("a.txt", "*.txt", "[ab].txt", "**/*.txt", "**/d*", "*/c.txt", "**/deeper/*",
                    "none.txt", "none/*", "none/a.txt", ".*.txt"):  # fmt: skip
        expected = {file.name: file.size for file in find(f"{folder}/{pattern}")}
        files = {
            file.name.replace(base, str(folder)): file.size for file in find(f"{base}/{pattern}")
        }
        assert files == expected, pattern
    assert is_folder(f"{base}/deep/")
    assert not is_folder(f"{base}/none")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scheme", [name for name in WRITERS if name != "array_record"])
def test_every_format_is_read_at_urls(
    on: Servers, folder: Path, protocol: str, scheme: str
) -> None:
    base = on.use(protocol, on.urls[protocol])
    name = scheme if scheme == "arrow" else f"{scheme}/a.{scheme}"
    expected = text_of(f"{scheme}:{folder}/{name}#text@doc")
    assert text_of(f"{scheme}:{base}/{name}#text@doc") == expected
    assert len(expected) == 134


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_text_is_cut_into_spans_and_decompressed(on: Servers, folder: Path, protocol: str) -> None:
    base = on.use(protocol, on.urls[protocol])
    for spec in ("text:{}/**/*.txt", "text:{}/a.txt.xz", "files:{}/*.txt"):
        assert text_of(spec.format(base), 1000) == text_of(spec.format(folder), 1000), spec


# The client of the hub waits for seconds before it repeats a request.
@pytest.mark.parametrize(
    "fault",
    ["", "short", *(pytest.param(name, marks=pytest.mark.full) for name in ("reset", "truncated"))],
)
def test_data_sets_of_the_hugging_face_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.02)
    with hub_server(folder) as hub, faulty_proxy(hub, fault) as proxy:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": proxy.url})
        remote._file_system.cache_clear()
        base = f"hf://datasets/{DATA_SET}"
        for spec in ("text:{}/**/*.txt", "parquet:{}/parquet/*.parquet"):
            assert text_of(spec.format(base)) == text_of(spec.format(folder))
        assert (proxy.injected > 0) == bool(fault)
        proxy.fault = ""
        with pytest.raises(BadInputError, match="HF_TOKEN"):
            open_source("text:hf://datasets/me/none/*.txt")
    remote._file_system.cache_clear()


def test_array_record_is_refused(on: Servers) -> None:
    base = on.use("http", on.urls["http"])
    with pytest.raises(BadInputError, match="copy it first"):
        text_of(f"array_record:{base}/array_record/a.array_record")


@pytest.mark.parametrize(("protocol", "fault"), FAULTS_OF_PROTOCOLS)
def test_a_fault_changes_no_byte(on: Servers, folder: Path, protocol: str, fault: str) -> None:
    on.patch.setattr(remote, "_TIMEOUT", 1.0 if fault == "hang" else 30.0)
    with faulty_proxy(on.urls[protocol], fault) as proxy:
        base = on.use(protocol, proxy.url)
        (file,) = find(f"{base}/*.bin")
        with file.open() as content:
            assert content.read(1000) == LARGE[:1000]
            content.seek(5_000_000)
            assert content.read() == LARGE[5_000_000:]
        # gcsfs needs seconds for each of the requests.
        for spec in () if protocol == "gs" else ("parquet:{}/parquet/*.parquet", "text:{}/*.txt"):
            assert text_of(spec.format(base)) == text_of(spec.format(folder))
        assert proxy.injected >= 3


def failure(proxy: Proxy, on: Servers, protocol: str, spec: str) -> UserError:
    """Return the error of a server whose answers are always faulty."""
    on.patch.setattr(remote, "_PATIENCE", 0.2)
    base = on.use(protocol, proxy.url)
    with pytest.raises(UserError) as error:
        text_of(spec.format(base))
    assert "?" not in str(error.value)
    assert base in str(error.value)
    return error.value


@pytest.mark.parametrize("spec", ["text:{}/*.txt", "text:{}/a.txt", "parquet:{}/parquet/*.parquet"])
@pytest.mark.parametrize("fault", ["reset", "503", "truncated", "short", "reset in body"])
@pytest.mark.parametrize("protocol", ["http", "s3"])
def test_a_broken_server_ends_with_a_line(
    on: Servers, protocol: str, fault: str, spec: str
) -> None:
    with faulty_proxy(on.urls[protocol], fault, always=True) as proxy:
        assert isinstance(failure(proxy, on, protocol, spec), UnreachableError)


@pytest.mark.full  # gcsfs gives up after half a minute
@pytest.mark.parametrize("fault", ["503", "truncated", "short"])
def test_a_broken_google_ends_with_a_line(on: Servers, fault: str) -> None:
    with faulty_proxy(on.urls["gs"], fault, always=True) as proxy:
        assert isinstance(failure(proxy, on, "gs", "text:{}/*.txt"), UnreachableError)


@pytest.mark.parametrize("status", ["401", "403", "400"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused_requests_are_not_repeated(on: Servers, protocol: str, status: str) -> None:
    with faulty_proxy(on.urls[protocol], status, always=True) as proxy:
        error = failure(proxy, on, protocol, "text:{}/*.txt")
        assert isinstance(error, BadInputError)
        assert ("access is denied" in str(error)) == (status != "400")
        assert proxy.injected <= 2


def test_a_server_without_ranges_is_refused(on: Servers, folder: Path) -> None:
    with file_server(folder.parent, ranges=False) as url:
        assert text_of(f"files:{url}/data/a.txt") == text_of(f"files:{folder}/a.txt")
        (file,) = find(f"{url}/data/large.bin")
        with file.open() as content:
            content.seek(5_000_000)
            with pytest.raises(BadInputError, match="download it first"):
                content.read(10)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("nosuch://a/b.txt", "nosuch"),
        ("zip://a.txt::http://127.0.0.1/a.zip", "unpack"),
        ("http://127.0.0.1:1/a.txt", "again"),
        ("http:///a.txt", "correct"),
        ("s3:///a.txt", "correct"),
        ("gs:///a.txt", "correct"),
    ],
)
def test_bad_urls(on: Servers, url: str, word: str) -> None:
    on.use("s3", on.urls["s3"])
    on.patch.setattr(remote, "_PATIENCE", 0.2)
    with pytest.raises(UserError, match=word):
        open_source(f"text:{url}")


def test_missing_credentials_are_named(on: Servers, tmp_path: Path) -> None:
    on.use("s3", on.urls["s3"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        on.patch.delenv(name)
    on.patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    on.patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(BadInputError, match="AWS_PROFILE"):
        open_source("text:s3://bucket/data/*.txt")
