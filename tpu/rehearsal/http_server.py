"""HTTP on this machine, for the services that are emulated."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_JSON = "application/json; charset=UTF-8"


class Quiet(BaseHTTPRequestHandler):
    """Says nothing of its requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def answer(self, body: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        """Sends `body`, which is JSON unless `headers` say what it is."""
        with suppress(OSError):  # a client may have been killed meanwhile
            self.send_response(code)
            for name, value in ({"Content-Type": _JSON} if headers is None else headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answers on 127.0.0.1 while the context lasts; gives HOST:PORT."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
