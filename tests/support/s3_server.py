"""A local S3: moto's server on 127.0.0.1, in its own process."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.ports import free_port


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server; yield its URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.kill()
        process.wait()


def variables(url: str) -> dict[str, str]:
    """Return variables that make s3fs use `url`, with credentials that the server accepts."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def upload(url: str, folder: Path, address: str) -> str:
    """Copy a folder to ``s3://BUCKET/NAME``; make the bucket if necessary."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    _put(f"{url}/{bucket}", b"")
    for file in folder.rglob("*"):
        if file.is_file():
            _put(f"{url}/{bucket}/{prefix}/{file.relative_to(folder)}", file.read_bytes())
    return address


def _put(url: str, content: bytes) -> None:
    # The signature is not checked, but its presence.
    authorization = (
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request,"
        " SignedHeaders=host, Signature=0"
    )
    headers = {"Authorization": authorization, "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, content, headers, method="PUT")  # noqa: S310
    with urllib.request.urlopen(request, timeout=30):  # noqa: S310
        pass


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/moto-api/", timeout=30):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, "the server ended"
            time.sleep(0.05)
    raise TimeoutError(url)
