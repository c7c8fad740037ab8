"""The part of the Hugging Face hub's API that lists, reads and writes repositories."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from pipelines.data.hub import repository
from pipelines.data.sources import remote
from support.server_threads import serving

DATA_SET = "me/books"
TOKEN = "hf_of_the_tests"  # noqa: S105
_JSON = {"Content-Type": "application/json"}
_ACTIONS = ("revision", "tree", "preupload", "commit")


@dataclass
class Hub:
    """Repositories, the faults of their server, and the requests that it received.

    Attributes:
        repositories: models/ORG/NAME or datasets/ORG/NAME -> revision -> folder.
        aliases: Former name -> name.
        private: Repositories that need the token.
        gated: Repositories whose files need more than the token.
        large: Files of at least so many bytes are in another store; None = none are.
        cuts: Name of a file -> bytes after which each of its next answers ends.
        wrong: Name of a file -> bytes that are sent in its place.
        pause: Seconds between the blocks of an answer.
        requests: Method, path and headers of each request.
        uploads: Contents of large files that were uploaded, by SHA-256.
    """

    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    large: int | None = None
    cuts: dict[str, list[int]] = field(default_factory=dict)
    wrong: dict[str, bytes] = field(default_factory=dict)
    pause: float = 0.0
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def ranges(self, name: str) -> list[str]:
        """Return the ranges of the requests for the content of a file; "" for the whole file."""
        parts = (f"/{name}", f"/store/{name}")
        return [
            headers.get("Range", "")
            for method, path, headers in self.requests
            if method == "GET" and path.endswith(parts) and "/resolve/" in path
        ]

    def folder(self, name: str, revision: str) -> Path | None:
        """Return the folder of a revision or commit."""
        folders = self.repositories[name]
        if revision in folders:
            return folders[revision]
        return next((path for path in folders.values() if commit_of(path) == revision), None)

    def commit(self, name: str, header: dict[str, Any], *entries: dict[str, Any]) -> str:
        """Write the files of a commit; return its id."""
        folder = self.repositories[name]["main"]
        if header["value"].get("parentCommit", commit_of(folder)) != commit_of(folder):
            raise ValueError("A commit has happened since.")
        for entry in entries:
            value = entry["value"]
            is_large = entry["key"] == "lfsFile"
            content = self.uploads[value["oid"]] if is_large else _decoded(value["content"])
            (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / value["path"]).write_bytes(content)
        return commit_of(folder)


def commit_of(folder: Path) -> str:
    """Return the id of a commit with the files of a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    entries = [(path, path.relative_to(folder), path.stat()) for path in paths]
    return _commit_of(tuple((*entry, info.st_size, info.st_mtime_ns) for *entry, info in entries))


@lru_cache
def _commit_of(entries: tuple[tuple[Any, ...], ...]) -> str:
    state = hashlib.sha1(usedforsecurity=False)
    for path, name, *_ in entries:
        state.update(f"{name}\n".encode() + path.read_bytes())
    return state.hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve repositories; ``hub.url`` is the endpoint."""
    with serving(partial(_Handler, hub)) as hub.url:
        yield hub


@contextmanager
def hub_server(folder: Path) -> Iterator[str]:
    """Serve a folder as the data set; yield the URL of the hub."""
    with serve(Hub({f"datasets/{DATA_SET}": {"main": folder}})) as hub:
        yield hub.url


@contextmanager
def impatient_client(
    patch: pytest.MonkeyPatch,
    repositories: dict[str, dict[str, Path]],
    home: Path,
    token: str = "",
) -> Iterator[Hub]:
    """Serve repositories to the client in this process, which gives up after half a second."""
    patch.setattr(remote, "_FIRST_WAIT", 0.02)
    patch.setattr(remote, "_PATIENCE", 0.5)
    patch.setattr(repository, "_PATIENCE", 0.5)
    with serve(Hub(repositories, large=1000)) as hub:
        use(patch, hub.url, home, token)
        yield hub


def use(patch: pytest.MonkeyPatch, url: str, home: Path, token: str = "") -> Path:
    """Make huggingface_hub use a server and a cache; return the cache."""
    from huggingface_hub import constants

    cache = home / "hub"
    patch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    # The protocol of the hub's own store, which only the hub speaks; uploads use it.
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    if token:
        home.mkdir(parents=True, exist_ok=True)
        (home / "token").write_text(token, "utf-8")
    return cache


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub: Hub, *args: Any) -> None:
        self._hub = hub
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def _segments(self) -> list[str]:
        path = urlsplit(self.path).path
        self._hub.requests.append((self.command, unquote(path), dict(self.headers)))
        return [unquote(part) for part in path.strip("/").split("/")]

    def do_GET(self) -> None:
        parts = self._segments()
        if parts[0] == "store":
            self._send_content(self._stored(parts[1]), "/".join(parts[2:]), {})
        elif parts[0] == "api":
            action = next((part for part in parts if part in _ACTIONS), "")
            cut = parts.index(action) if action else len(parts)
            self._send_facts("/".join(parts[1:cut]), action, parts[cut + 1 :])
        else:
            kind = [] if parts[0] == "datasets" else ["models"]
            cut = parts.index("resolve")
            name, revision, file = "/".join([*kind, *parts[:cut]]), parts[cut + 1], parts[cut + 2 :]
            if (folder := self._opened(name, revision, is_content=True)) is not None:
                self._send_file(folder, "/".join(file))

    do_HEAD = do_GET

    def _opened(self, name: str, revision: str, *, is_content: bool = False) -> Path | None:
        """Return the folder of a repository, or send an error."""
        hub, has_token = self._hub, self.headers.get("Authorization") == f"Bearer {TOKEN}"
        short = name.partition("/")[2]
        if short in hub.aliases:
            location = self.path.replace(f"/{short}", f"/{hub.aliases[short]}", 1)
            self._send(307, b"", {"Location": location})
        elif "Authorization" in self.headers and not has_token:
            message = "Invalid credentials in Authorization header"
            self._send(401, b"{}", {"X-Error-Message": message})
        elif name not in hub.repositories or (name in hub.private and not has_token):
            status = 404 if has_token else 401
            self._send(status, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif is_content and name in hub.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif (folder := hub.folder(name, revision)) is None:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            return folder
        return None

    def _send_facts(self, name: str, action: str, rest: list[str]) -> None:
        folder = self._opened(name, rest[0] if rest else "main")
        if folder is None:
            return
        if action == "tree":
            self._send_list(folder, folder.joinpath(*rest[1:]))
            return
        siblings = [
            {"rfilename": entry.pop("path"), "blobId": entry.pop("oid"), **entry}
            for entry in (self._entry(folder, path) for path in sorted(folder.rglob("*")))
            if entry.pop("type") == "file"
        ]
        facts = {"id": name.partition("/")[2], "sha": commit_of(folder), "siblings": siblings}
        self._send(200, json.dumps(facts).encode(), _JSON)

    def _entry(self, folder: Path, path: Path) -> dict[str, Any]:
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        if not path.is_file():
            return {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
        content = path.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % size + content, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": oid}
        if self._is_large(content):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "oid": sha256, "size": size, "pointerSize": 130}
        return entry

    def _is_large(self, content: bytes) -> bool:
        return self._hub.large is not None and len(content) >= self._hub.large

    def _send_list(self, root: Path, folder: Path) -> None:
        if not folder.is_dir():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        entries = [self._entry(root, path) for path in sorted(folder.iterdir())]
        self._send(200, json.dumps(entries).encode(), _JSON)

    def _send_file(self, folder: Path, name: str) -> None:
        file = folder / name
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content, entry = file.read_bytes(), self._entry(folder, file)
        headers = {"X-Repo-Commit": commit_of(folder), "ETag": f'"{entry["oid"]}"'}
        if not self._is_large(content):
            self._send_content(content, name, headers)
            return
        sha256 = entry["lfs"]["sha256"]
        # Another host, which must not receive the token.
        store = self._hub.url.replace("127.0.0.1", "localhost")
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        self._send(302, b"", headers | {"Location": f"{store}/store/{sha256}/{name}"})

    def _stored(self, sha256: str) -> bytes:
        for folders in self._hub.repositories.values():
            for folder in folders.values():
                for path in folder.rglob("*"):
                    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                        return path.read_bytes()
        return b""

    def _send_content(self, content: bytes, name: str, headers: dict[str, str]) -> None:
        content = self._hub.wrong.get(name, content)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            self._send(200, content, headers, self._cut(name))
            return
        start, end = int(span[1]), int(span[2] or len(content) - 1)
        if start >= len(content):
            self._send(416, b"", headers)
            return
        headers |= {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self._send(206, content[start : end + 1], headers, self._cut(name))

    def _cut(self, name: str) -> int | None:
        cuts = self._hub.cuts.get(name, []) if self.command == "GET" else []
        return cuts.pop(0) if cuts else None

    def do_POST(self) -> None:
        parts = self._segments()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if parts == ["api", "validate-yaml"]:
            self._answer({"errors": [], "warnings": []})
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(403, b"{}", {"X-Error-Message": "no write permission"})
        elif parts[:2] == ["api", "repos"]:
            values = json.loads(body)
            name = f"{values['organization']}/{values['name']}"
            folder = Path(self._hub.repositories["models/new"]["main"]) / name
            folder.mkdir(parents=True)
            (folder / ".gitattributes").write_text("", "utf-8")
            self._hub.repositories[f"models/{name}"] = {"main": folder}
            self._hub.private |= {f"models/{name}"} if values["visibility"] == "private" else set()
            self._answer({"url": f"{self._hub.url}/{name}"})
        elif parts[-2:] == ["objects", "batch"]:
            self._answer({"objects": [self._lfs_actions(each) for each in _objects(body)]})
        elif "preupload" in parts:
            self._answer({"files": [self._upload_mode(file) for file in json.loads(body)["files"]]})
        else:
            self._commit("/".join(parts[1 : parts.index("commit")]), body)

    def do_PUT(self) -> None:
        parts = self._segments()
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._hub.uploads[hashlib.sha256(content).hexdigest()] = content
        self._send(200 if parts[-1] in self._hub.uploads else 400, b"", {})

    def _lfs_actions(self, each: dict[str, Any]) -> dict[str, Any]:
        return each | {"actions": {"upload": {"href": f"{self._hub.url}/upload/{each['oid']}"}}}

    def _upload_mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = self._hub.large is not None and file["size"] >= self._hub.large
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _commit(self, name: str, body: bytes) -> None:
        try:
            commit = self._hub.commit(name, *[json.loads(line) for line in body.splitlines()])
        except ValueError as error:
            self._send(412, b"{}", {"X-Error-Message": str(error)})
            return
        url = f"{self._hub.url}/{name.partition('/')[2]}/commit/{commit}"
        self._answer({"success": True, "commitOid": commit, "commitUrl": url})

    def _answer(self, content: dict[str, Any]) -> None:
        self._send(200, json.dumps(content).encode(), _JSON)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = body if cut is None else body[:cut]
        size = len(sent) if not self._hub.pause else max(1, len(sent) // 4)
        for start in range(0, len(sent), size or 1):
            self.wfile.write(sent[start : start + size])
            self.wfile.flush()
            time.sleep(self._hub.pause)
        self.close_connection = self.close_connection or cut is not None


def _objects(body: bytes) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads(body)["objects"]
    return objects


_decoded: Callable[[str], bytes] = base64.b64decode
