"""An HTTP server of a folder that sends ranges of files, as web servers do; Python's sends none."""

from __future__ import annotations

import http.server
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from support.server_threads import serving


@contextmanager
def file_server(folder: Path, *, ranges: bool = True) -> Iterator[str]:
    """Serve a folder; yield its URL.

    Args:
        folder: The folder.
        ranges: Whether to send the requested range; otherwise always the whole file.
    """
    handler = partial(_RangeHandler if ranges else _Handler, directory=str(folder))
    with serving(handler) as url:
        yield url


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        pass


class _RangeHandler(_Handler):
    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None or not path.is_file():
            super().do_GET()
            return
        content = path.read_bytes()
        start, end = int(span[1]), min(int(span[2]) + 1, len(content))
        if start >= len(content):
            self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:end])
