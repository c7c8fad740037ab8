"""The part of the Hugging Face hub's API that reads the files of one public data set."""

from __future__ import annotations

import http.server
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support.server_threads import serving

DATA_SET = "me/books"
_API, _FILES = f"/api/datasets/{DATA_SET}", f"/datasets/{DATA_SET}/resolve/main/"
_TREE = f"{_API}/tree/main"
_JSON = {"Content-Type": "application/json"}


@contextmanager
def hub_server(folder: Path) -> Iterator[str]:
    """Serve a folder as the data set; yield the URL of the hub."""
    with serving(partial(_Handler, folder)) as url:
        yield url


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, folder: Path, *args: Any) -> None:
        self._folder = folder
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(_FILES):
            self._send_range(self._folder / path.removeprefix(_FILES))
        elif path.startswith(_TREE):
            self._send_list(self._folder / path.removeprefix(_TREE).strip("/"))
        elif path.startswith(_API):
            self._send(200, json.dumps({"id": DATA_SET, "sha": "0" * 40}).encode(), _JSON)
        else:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _send_range(self, file: Path) -> None:
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        content = file.read_bytes()
        if span is None:
            self._send(200, content, {})
        else:
            self._send(206, content[int(span[1]) : int(span[2]) + 1], {})

    def _send_list(self, folder: Path) -> None:
        if not folder.is_dir():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        entries = [
            {
                "type": "file" if path.is_file() else "directory",
                "path": path.relative_to(self._folder).as_posix(),
                "size": path.stat().st_size,
                "oid": "0" * 40,
            }
            for path in sorted(folder.iterdir())
        ]
        self._send(200, json.dumps(entries).encode(), _JSON)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
