"""`bert-jax serve`: what the API makes of requests that are wrong, large or of strangers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.serving.answers import MAX_MASKS
from pipelines.serving.guards import Hosts, RequestFilter
from pipelines.serving.messages import MAX_BYTES, MAX_CHARACTERS
from support.model_server import Client, served


@pytest.fixture(scope="module")
def pretrained(trained: Path) -> Iterator[Client]:
    with served(trained) as client:
        yield client


def test_a_bad_request_is_answered_with_one_line(pretrained: Client) -> None:
    refused = pretrained.refused
    assert "[MASK]" in refused(422, "fill-mask", text="the lamp")
    assert "masks" in refused(422, "fill-mask", text="[MASK]" * (MAX_MASKS + 1))
    assert "64" in refused(422, "fill-mask", text="lamp " * 200 + "[MASK]")
    assert "text" in refused(422, "fill-mask", text="\t \n")
    assert "blank" in refused(422, "tokenize", text="   ")
    assert "Unicode" in refused(422, "tokenize", text="\ud800")
    assert "top_k" in refused(422, "fill-mask", text="[MASK]", top_k=0)
    assert "top_k" in refused(422, "fill-mask", text="[MASK]", top_k="5")
    assert "mood" in refused(422, "fill-mask", text="[MASK]", mood="dry")
    assert str(MAX_CHARACTERS) in refused(422, "tokenize", text="a" * (MAX_CHARACTERS + 1))
    assert "16" in refused(422, "similarity", texts=["a"] * 17)
    assert "texts[1]" in refused(422, "similarity", texts=["a", 3])
    assert "fill-mask" in refused(404, "qa", question="who?", context="the man")


def test_requests_are_bounded_and_of_this_site(pretrained: Client) -> None:
    ask = pretrained.request
    kind = {"Content_Type": "application/json"}
    asking = kind | {"Expect": "100-continue"}  # and nothing is sent before the answer
    path = "/api/tokenize"
    for code, method, where, body, headers in (
        (400, "POST", path, b"{", kind),
        (400, "POST", path, b"", kind),
        (422, "POST", path, b"null", kind),
        (400, "POST", path, b'{"text": "\xff"}', kind),
        (400, "POST", path, b"[" * 400, kind),
        (400, "POST", path, b"[" * 100_000, kind),
        (413, "POST", path, b" " * (MAX_BYTES + 1), kind),
        (413, "POST", path, b" " * (8 * MAX_BYTES), kind),
        (413, "POST", path, None, kind | {"Content_Length": str(10**12)}),
        (413, "POST", path, None, asking | {"Content_Length": str(MAX_BYTES + 1)}),
        (415, "POST", path, b'{"text": "a"}', {"Content_Type": "text/plain"}),
        (403, "POST", path, b'{"text": "a"}', kind | {"Origin": "http://evil.example"}),
        (403, "POST", path, b'{"text": "a"}', kind | {"Origin": "null"}),
        (403, "POST", path, b'{"text": "a"}', kind | {"Origin": "http://[::"}),
        (403, "GET", "/", None, {"Host": "[::"}),
        (403, "GET", "/", None, {"Host": "evil.example"}),
        (403, "GET", "/", None, {"Host": "127.0.0.1.evil.example"}),
        (403, "GET", "/", None, {"Host": "192.168.1.1"}),
        (404, "GET", "/../../etc/passwd", None, {}),
        (405, "GET", path, None, {}),
        (405, "DELETE", "/health", None, {}),
    ):
        status, _, content = ask(method, where, body, **headers)
        assert status == code, (method, where, headers, content)
        assert list(json.loads(content)) == ["error"], content
        assert b"Traceback" not in content
    same = kind | {"Origin": pretrained.url.rstrip("/")}
    assert ask("POST", path, b'{"text": "a"}', **same)[0] == 200
    assert ask("GET", "/health", Host="localhost:1")[0] == 200
    assert ask("GET", "/health", Host="[::1]:80")[0] == 200
    everywhere = Hosts("0.0.0.0")  # noqa: S104
    assert everywhere.allows("192.168.1.1:8000")
    assert everywhere.allows(socket.gethostname())
    assert not everywhere.allows("evil.example:8000")


def test_a_request_without_end_is_not_read_for_long() -> None:
    parts, sent = 0, []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it is too large for that")

    async def receive() -> Message:
        nonlocal parts
        parts += 1
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "headers": headers}
    asyncio.run(RequestFilter(application, Hosts("127.0.0.1"), 1000)(scope, receive, send))
    assert sent[0]["status"] == 413
    assert parts < 20


def test_the_openapi_document_lists_the_errors(pretrained: Client) -> None:
    paths = json.loads(pretrained.request("GET", "/openapi.json")[2])["paths"]
    assert {path for path in paths if "/api/" not in path} == {"/health"}
    for path, operations in paths.items():
        for method, operation in operations.items():
            codes = sorted(map(int, operation["responses"]))
            post_codes = {400, 415, 422, 500} if method == "post" else set()
            assert codes == sorted({200, 403, 408, 413, 503} | post_codes), path


def test_the_page_comes_whole_and_may_load_nothing_else(pretrained: Client) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/style.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ):
        status, headers, content = pretrained.request("GET", path)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert b"https://" not in content
        for word in (b"innerHTML", b"insertAdjacentHTML", b"eval(", b" style=", b'onclick="'):
            assert word not in content
    assert json.loads(pretrained.request("GET", "/health")[2]) == {"status": "ok"}
    for path in ("/docs", "/redoc"):
        assert pretrained.request("GET", path)[0] == 404
