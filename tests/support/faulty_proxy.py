"""An HTTP proxy that injects faults: resets, busy servers and truncated answers.

    with faulty_proxy(url_of_the_server, "reset") as proxy:
        proxy.url  # use it in place of the server's

Every second answer to a request has the fault, so that a client that tries again succeeds; with
`always`, all of them.
"""

from __future__ import annotations

import http.client
import http.server
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support.server_threads import serving

# A truncated answer ends before its Content-Length. A short one states the length that it has; only
# ranges are made short, because nobody can notice it in a list.
FAULTS = ("reset", "reset in body", "429", "503", "truncated", "short", "hang")
_SKIPPED = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Proxy:
    """A proxy and what it did.

    Attributes:
        server: Address of the server behind it.
        fault: One of `FAULTS`, the number of an HTTP status, or "" for none.
        always: Whether every answer has the fault.
        is_affected: Return whether a request, by its method and path, may have a fault.
        url: Its own URL.
        injected: Number of faults so far.
    """

    server: str
    fault: str
    always: bool
    is_affected: Callable[[str, str], bool]
    url: str = ""
    injected: int = 0
    _requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str, path: str) -> str:
        """Return the fault of the next answer; "" for none."""
        if not self.fault or not self.is_affected(method, path):
            return ""
        with self._lock:
            self._requests += 1
            if not self.always and self._requests % 2 == 0:
                return ""
            self.injected += 1
        return self.fault


@contextmanager
def faulty_proxy(
    server: str,
    fault: str,
    *,
    always: bool = False,
    is_affected: Callable[[str, str], bool] = lambda method, path: method in ("GET", "HEAD"),
) -> Iterator[Proxy]:
    """Run a proxy before a server; see `Proxy` for the arguments."""
    proxy = Proxy(server, fault, always, is_affected)

    class Handler(_Handler):
        pass

    Handler.proxy = proxy
    with serving(Handler) as proxy.url:
        yield proxy


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def log_message(self, *args: Any) -> None:
        pass

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.next_fault(self.command, self.path)
        if fault == "reset":
            self._reset()
        elif fault == "hang":
            time.sleep(1.5)
            self._reset()
        elif fault.isdigit():
            self._answer(int(fault), [], b"<html>Come back later.</html>")
        else:
            status, headers, content = self._response(body)
            self._answer(status, headers, content, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _forward

    def _response(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.proxy.server).netloc, timeout=30)
        try:
            connection.request(self.command, self.path, body or None, dict(self.headers))
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str = ""
    ) -> None:
        length: object = len(content)
        if self.command == "HEAD":
            length = next((value for name, value in headers if name.lower() == "content-length"), 0)
        half = content[: len(content) // 2]
        if fault == "short" and "Range" not in self.headers:
            fault = ""
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _SKIPPED:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(half) if fault == "short" else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(half if fault else content)
        if fault == "reset in body":
            self._reset()
        self.close_connection = self.close_connection or fault == "truncated"

    def _reset(self) -> None:
        """Close the connection with RST instead of FIN."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
