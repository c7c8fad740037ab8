"""A local Google Cloud Storage: gcp-storage-emulator on 127.0.0.1, in its own process.

    with gcs_emulator.emulator() as (url, variables):
        gcs_emulator.make_bucket(url, "some-bucket")  # three letters or more
        subprocess.run(..., env=os.environ | variables)  # can use gs://some-bucket/…

The emulator keeps everything in memory, handles one request at a time and checks no credentials.
This module adds the request ``moveTo``, by which gcsfs renames; generations in the headers of
downloads and conditions on them, which TensorStore needs; and buckets called ``refused-…`` that
refuse all requests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from support.ports import free_port

REFUSED = "refused-"


@contextmanager
def emulator() -> Iterator[tuple[str, dict[str, str]]]:
    """Run a server.

    Yields:
        Its URL, and the environment variables with its address for programs.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "support.gcs_emulator", str(port)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url, variables(url)
    finally:
        process.kill()
        process.wait()


def variables(url: str) -> dict[str, str]:
    """Return variables that make gcsfs, Orbax and TensorStore use `url` without credentials."""
    return {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs, google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": url,
        "FSSPEC_GCS_TOKEN": "anon",
        "NO_GCE_CHECK": "true",
        "GCE_METADATA_ROOT": "127.0.0.1:1",  # refuses connections at once
    }


def make_bucket(url: str, name: str) -> str:
    """Create a bucket without soft deletion; return its gs:// address."""
    # Soft-deleted objects slow down every further request.
    body = {"name": name, "softDeletePolicy": {"retentionDurationSeconds": "0"}}
    _request(f"{url}/storage/v1/b?project=test", json.dumps(body).encode(), "application/json")
    return f"gs://{name}"


def names(url: str, address: str) -> list[str]:
    """Return the names of the objects below ``gs://…``, relative to it."""
    bucket, _, folder = address.removeprefix("gs://").partition("/")
    listing = json.loads(_request(f"{url}/storage/v1/b/{bucket}/o?prefix={quote(folder, '')}%2F"))
    return [item["name"].removeprefix(f"{folder}/") for item in listing.get("items", ())]


def read(url: str, address: str) -> bytes:
    """Return the content of an object."""
    bucket, _, name = address.removeprefix("gs://").partition("/")
    return _request(f"{url}/storage/v1/b/{bucket}/o/{quote(name, '')}?alt=media")


def write(url: str, address: str, content: bytes) -> None:
    """Write an object; its content must not be empty."""
    bucket, _, name = address.removeprefix("gs://").partition("/")
    query = f"uploadType=media&name={quote(name, '')}"
    _request(f"{url}/upload/storage/v1/b/{bucket}/o?{query}", content)


def download(url: str, address: str, folder: Path) -> Path:
    """Copy the objects below ``gs://…`` to a folder."""
    for name in names(url, address):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(read(url, f"{address}/{name}"))
    return folder


def upload(url: str, folder: Path, address: str) -> str:
    """Copy a folder to ``gs://…``."""
    for file in folder.rglob("*"):
        if file.is_file():
            write(url, f"{address}/{file.relative_to(folder)}", file.read_bytes())
    return address


def _request(url: str, body: bytes | None = None, kind: str = "application/octet-stream") -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": kind})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        return response.read()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            _request(url)
            return
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, "the emulator ended"
            time.sleep(0.05)
    raise TimeoutError(url)


def _serve(port: int) -> None:
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import objects

    names = r"(?P<object_id>.*[^/]+)/moveTo/o/(?P<dest_object_id>.*[^/]+)"
    route = rf"^/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/{names}$"
    server.HANDLERS = ((route, {server.POST: _move}), *server.HANDLERS)
    original_download, original_handle = objects.download, server.Router.handle

    def download_with_generation(request: Any, response: Any, storage: Any) -> None:
        original_download(request, response, storage)
        names = request.params
        if metadata := storage.objects[names["bucket_name"]].get(names["object_id"]):
            response["X-Goog-Generation"] = metadata["generation"]

    def handle(router: Any, method: str) -> None:
        handler = router._request_handler
        if refusal := _refusal(handler.path, method, handler.storage):
            handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
            body = json.dumps({"error": {"code": refusal[0], "message": refusal[1]}}).encode()
            handler.send_response(refusal[0])
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        else:
            original_handle(router, method)

    objects.download, server.Router.handle = download_with_generation, handle
    server.create_server("127.0.0.1", port, in_memory=True).run()


def _move(request: Any, response: Any, storage: Any) -> None:
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    names = request.params
    source = (names["bucket_name"], names["object_id"])
    try:
        target = (names["bucket_name"], names["dest_object_id"])
        response.json(objects._copy(request.base_url, storage, *source, *target))
        storage.delete_file(*source)
    except NotFound:
        response.status = HTTPStatus.NOT_FOUND


def _refusal(path: str, method: str, storage: Any) -> tuple[int, str] | None:
    """Return the status and message for a request without rights or with a false condition."""
    location = re.search(r"/b/([-.\w]+)(?:/o)?/?([^?]*)", path)
    if location is None:
        return None
    if location[1].startswith(REFUSED):
        return 403, "somebody does not have storage.objects.list access to the bucket."
    query = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
    name = query.get("name") or unquote(location[2])
    generation = storage.objects.get(location[1], {}).get(name, {}).get("generation", "0")
    if query.get("ifGenerationMatch", generation) != generation:
        return 412, "conditionNotMet"
    if query.get("ifGenerationNotMatch") == generation:
        return (304 if method == "GET" else 412), "conditionNotMet"
    return None


if __name__ == "__main__":
    os.environ.pop("STORAGE_EMULATOR_HOST", None)
    _serve(int(sys.argv[1]))
