"""`bert-jax serve`: who is slow, or asks too often at once, holds nothing for ever."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from pipelines.serving import guards, server
from support.model_server import GOLDEN, Client, answers_of, served

HEAD = b"POST /api/tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@contextmanager
def connected(client: Client) -> Iterator[socket.socket]:
    host, port = client.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        yield sock


def everything(sock: socket.socket) -> bytes:
    """Return the whole response; the server must close the connection."""
    received = b""
    while more := sock.recv(4096):
        received += more
    return received


def error_of(received: bytes) -> tuple[int, str]:
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("sent", [b"", b"POST /api/tok", HEAD])
def test_a_request_that_does_not_come_is_not_waited_for(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "REQUEST_SECONDS", 0.5)
    with served(GOLDEN) as client, connected(client) as sock:
        sock.sendall(sent)
        assert everything(sock) == b""


def test_a_head_that_comes_letter_by_letter_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guards, "REQUEST_SECONDS", 0.5)
    gone = pytest.raises((BrokenPipeError, ConnectionResetError))
    with served(GOLDEN) as client, connected(client) as sock, gone:
        dripping(sock)


def dripping(sock: socket.socket) -> None:
    end = time.monotonic() + 15
    while time.monotonic() < end:
        sock.sendall(b"x")
        time.sleep(0.05)


def test_a_body_that_does_not_come_is_answered_with_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "REQUEST_SECONDS", 0.5)
    with served(GOLDEN) as client, connected(client) as sock:
        sock.sendall(HEAD + b"Content-Length: 20\r\n\r\n" + b'{"text": ')
        code, why = error_of(everything(sock))
        assert (code, why) == (408, "the request was not complete after 0.5 seconds")
        assert client.result("tokenize", text="the man")["unknown"] == 0


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_MAX_SECONDS", 0.5)
    answers, over = answers_of(GOLDEN), threading.Event()

    def hang(name: str, rows: Any) -> Any:
        over.wait(20)
        return [0] * len(rows)

    answers.batcher._run = hang
    body = b'{"text": "the man", "pair": "milk"}'
    with served(answers) as client, connected(client) as sock:
        head = HEAD.replace(b"tokenize", b"next-sentence")
        sock.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert everything(sock) == b""
        over.set()


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 3)
    with served(GOLDEN) as client:
        with ExitStack() as idle:
            for _ in range(3):
                idle.enter_context(connected(client))
            assert "too many connections" in client.refused(503, "tokenize", text="the man")
        end = time.monotonic() + 15
        while client.post("tokenize", text="the man")[0] != 200:
            assert time.monotonic() < end, "what was closed is still counted"
