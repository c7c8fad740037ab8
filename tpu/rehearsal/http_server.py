"""HTTP servers on this machine, for emulated services."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_JSON = "application/json; charset=UTF-8"


class QuietHandler(BaseHTTPRequestHandler):
    """Prints nothing about its requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def answer(self, body: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send `body`, which is JSON unless `headers` are given."""
        with suppress(OSError):  # the client may have been killed
            self.send_response(code)
            for name, value in ({"Content-Type": _JSON} if headers is None else headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on 127.0.0.1 within the context; yield HOST:PORT."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
