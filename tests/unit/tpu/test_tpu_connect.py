"""Connections to the cloud, and answers that are not from its API."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("google.cloud.tpu_v2", reason="extra cloud is not installed")


from bert_jax.runtime.errors import BadInputError
from support.scripted_cloud import STILL, ScriptedCloud
from support.slice_requests import NAME, PLACE, ZONE, hurry, resource
from tpu.launch import provider
from tpu.launch.api_errors import CloudError
from tpu.launch.provider import ENDPOINT, QueuedResources, connect
from tpu.rehearsal import fake_rest
from tpu.rehearsal.http_server import QuietHandler, serving


@pytest.fixture
def cloud() -> Iterator[ScriptedCloud]:
    """A cloud whose states change only on request."""
    fake_cloud = ScriptedCloud(STILL)
    yield fake_cloud
    fake_cloud.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def test_connect_goes_where_gcloud_goes(
    cloud: ScriptedCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_rest.serve(cloud) as url:
        monkeypatch.setenv(ENDPOINT, url)
        assert connect("p").create(ZONE, "run", resource())
    assert cloud.state("run") == "CREATING"


@pytest.mark.parametrize("endpoint", ["http://192.0.2.1/", "127.0.0.1:80", "http://localhost/v2"])
def test_connect_refuses_endpoints_without_encryption(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, endpoint)
    with pytest.raises(BadInputError, match=ENDPOINT):
        connect("p")


def test_connect_without_credentials_prints_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no question to a metadata server
    with pytest.raises(CloudError, match="gcloud auth application-default login") as error:
        connect("p")
    assert (error.value.kind, error.value.exit_code) == ("auth", 1)


def test_an_unreachable_cloud_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{closed.getsockname()[1]}/")
        monkeypatch.setattr(provider, "_RETRY_TIME", 0.1)
        with pytest.raises(CloudError) as error:
            connect("p").list(ZONE)
    assert (error.value.kind, error.value.exit_code) == ("transient", 69)


@contextmanager
def answering(text: bytes, code: int = 200) -> Iterator[QueuedResources]:
    """Slices of a server with one answer to everything, as a proxy may have."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.answer(text, code)

    with serving(Handler) as address:
        yield connect("p", f"http://{address}/")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>sign in</html>",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"name": 3}',
        b'{"state": {"state": [1]}}',
        b'{"name": "run"}',
        b'{"name": "\x1b[2J/a/b/c/d"}',
    ],
)
@pytest.mark.parametrize("code", [200, 400])
def test_an_answer_of_something_else_is_reported_in_a_line(
    text: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "_RETRY_TIME", 0.1)
    with answering(text, code) as slices, pytest.raises(CloudError) as error:
        slices.describe(ZONE, "run")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_an_answer_with_a_million_slices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_RETRY_TIME", 0.1)
    node = {"parent": PLACE, "node": {}, "multisliceParams": {"nodeCount": 10**6}}
    answer = {"name": NAME, "tpu": {"nodeSpec": [node]}, "state": {"state": "ACTIVE"}}
    refusal = pytest.raises(CloudError, match="1,000,000 slices")
    with answering(json.dumps(answer).encode()) as slices, refusal:
        slices.describe(ZONE, "run")
