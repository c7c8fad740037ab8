"""Requests to the servers of files, through fsspec.

A request that fails is repeated for a minute, whatever the protocol: connections are reset, servers
are busy, and answers are cut. Each answer is compared with the size that was requested, so a file
is never shorter than its server says.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bert_jax.runtime.errors import BadInputError, UnreachableError, UserError

_T = TypeVar("_T")

_PATIENCE = 60.0  # seconds until a request that fails again and again is given up
_TIMEOUT = 60.0  # seconds for one request
_SLOWEST = 1e5  # bytes per second of an upload
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0  # seconds between tries; doubled each time
# The package of each protocol that fsspec cannot open alone.
_PACKAGES = {
    "gs": "'bert-jax[cloud]'", "gcs": "'bert-jax[cloud]'", "s3": "'bert-jax[s3]'",
    "http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub",
}  # fmt: skip
_CREDENTIALS = {
    "gs": "log in with gcloud auth application-default login",
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for public data set"
    " FSSPEC_S3_ANON=true",
    "hf": "set HF_TOKEN",
}
# Packages that raise the failures of servers.
_CLIENTS = {"aiohttp", "asyncio", "botocore", "aiobotocore", "fsspec", "gcsfs", "google",
            "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "requests", "s3fs",
            "urllib3"}  # fmt: skip
_ABSENT, _DENIED, _TRANSIENT = {404, 410}, {401, 403}, {408, 425, 429}


@dataclass(frozen=True)
class Entry:
    """A file or folder of a server.

    Attributes:
        url: Its URL.
        is_folder: Whether it is a folder.
        size: Its bytes, if the server tells them.
    """

    url: str
    is_folder: bool
    size: int | None

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rstrip("/").rpartition("/")[2]


def entry(url: str) -> Entry | None:
    """Return the file or folder of a URL; None if it does not exist.

    Raises:
        BadInputError: The protocol is unknown or its package is missing; access is denied.
        UnreachableError: The server does not respond.
    """
    system, path = _opened(url)
    try:
        detail = repeated(url, lambda: _call(system, "info", path))
    except FileNotFoundError:
        return None
    return Entry(url, detail["type"] == "directory", detail.get("size"))


def entries(url: str) -> list[Entry]:
    """List a folder, sorted by name; see `entry` for the errors.

    An HTTP server has no folders: the links of its page are listed.
    """
    system, path = _opened(url)
    prefix = url.rstrip("/").removesuffix(path.rstrip("/"))
    try:
        details = repeated(url, lambda: _call(system, "ls", path, detail=True))
    except FileNotFoundError:
        return []
    listed = [
        Entry(prefix + item["name"], item["type"] == "directory", item.get("size"))
        for item in details
        if item["name"].rstrip("/") != path.rstrip("/")
    ]
    return sorted(listed, key=lambda item: item.url)


def read_range(url: str, start: int, end: int, size: int) -> bytes:
    """Read bytes `start` to `end` - 1 of a file of `size` bytes.

    Raises:
        BadInputError: The file has disappeared, or its server cannot send parts of it.
        UnreachableError: The server does not respond.
    """
    system, path = _opened(url)

    def request() -> bytes:
        if urlsplit(url).scheme in ("http", "https"):
            # Unlike cat_file, it notices that a server sends the whole file.
            file = system.open(path, size=size, block_size=1, cache_type="none")
            data = _wait_for(system, file.async_fetch_range, start, end)
        else:
            data = _call(system, "cat_file", path, start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"{len(data):,} of {end - start:,} bytes were received")
        return bytes(data)

    try:
        return repeated(url, request)
    except FileNotFoundError:
        raise BadInputError(f"{url} has disappeared; restore it") from None


def write(url: str, file: Path) -> None:
    """Write a local file to a bucket.

    Raises:
        BadInputError: Access is denied, or the bucket does not exist.
        UnreachableError: The server does not respond.
    """
    system, path = _opened(url)
    size = file.stat().st_size
    timeout = _TIMEOUT + size / _SLOWEST

    def request() -> None:
        _wait_for(system, system._put_file, str(file), path, timeout=timeout)
        stored = _call(system, "info", path)["size"]
        if stored != size:
            raise OSError(f"{stored:,} of {size:,} bytes were written")

    try:
        repeated(url, request)
    except FileNotFoundError:
        raise BadInputError(f"{url}: the bucket does not exist; create it") from None


def remove(url: str) -> None:
    """Remove a folder of a bucket with its files, if it exists; see `write` for the errors."""
    system, path = _opened(url)
    with suppress(FileNotFoundError):
        repeated(url, lambda: _call(system, "rm", path, recursive=True))


def repeated(url: str, request: Callable[[], _T], patience: float | None = None) -> _T:
    """Repeat a request until it succeeds.

    Args:
        url: Its URL, for messages.
        request: Sends it.
        patience: Seconds until it is given up; None = a minute.

    Raises:
        FileNotFoundError: The server has no such file.
        BadInputError: The server refuses the request.
        UnreachableError: The server did not respond for so long.
    """
    patience = _PATIENCE if patience is None else patience
    started, wait = time.monotonic(), _FIRST_WAIT
    while True:
        try:
            return request()
        except UserError:
            raise
        except Exception as error:
            reason = _reason(error)
            explained = _explained(url, reason)
            if explained is not None:
                raise explained from None
            if isinstance(reason, FileNotFoundError) or not _is_failure(reason):
                raise
            if time.monotonic() + wait > started + patience:
                raise _unreachable(url, reason) from None
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and its path there."""
    if "::" in url:
        raise BadInputError(f"{url}: a URL in a URL is not supported; unpack the archive first")
    address = urlsplit(url)
    if address.scheme in _PACKAGES and not address.netloc:
        raise BadInputError(f"{url} names no server or bucket; correct it")
    system = _file_system(address.scheme, address.netloc)
    return system, system._strip_protocol(url)


@cache
def _file_system(protocol: str, server: str) -> Any:
    from fsspec.core import url_to_fs

    address = f"{protocol}://{server}"
    try:
        system, _ = url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    except ImportError:
        package = _PACKAGES.get(protocol, f"the package of fsspec for {protocol}")
        raise BadInputError(f"{address} needs another package: pip install {package}") from None
    except ValueError:
        raise BadInputError(f"{address}: fsspec has no protocol {protocol!r}; correct it") from None
    except Exception as error:  # for example, credentials that cannot be read
        raise _explained(address, error) or _unreachable(address, error) from None
    if protocol in ("http", "https"):
        # A range of a compressed answer is not a range of the file.
        system.kwargs.setdefault("headers", {}).setdefault("Accept-Encoding", "identity")
    elif protocol == "s3":
        # Only `repeated` repeats; otherwise s3fs and botocore try 25 times, for minutes.
        system.retries = 1
        system.config_kwargs.setdefault("retries", {"max_attempts": 0})
    return system


def _call(system: Any, method: str, *args: Any, **options: Any) -> Any:
    if system.async_impl:
        return _wait_for(system, getattr(system, f"_{method}"), *args, **options)
    return getattr(system, method)(*args, **options)


def _wait_for(
    system: Any,
    function: Callable[..., Any],
    *args: Any,
    timeout: float | None = None,
    **options: Any,
) -> Any:
    from fsspec.asyn import sync

    return sync(system.loop, function, *args, timeout=timeout or _TIMEOUT, **options)


def _reason(error: BaseException) -> BaseException:
    """Return the failure behind an error: for HTTP, fsspec reports any as a missing file."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and _is_failure(cause):
        return error if _status(cause) in _ABSENT else cause
    return error


def _is_failure(error: BaseException) -> bool:
    """Return whether an error comes from a server or a connection, not from a bug."""
    # A client that parses a truncated list raises JSONDecodeError.
    is_known = isinstance(error, OSError | json.JSONDecodeError)
    return is_known or type(error).__module__.partition(".")[0] in _CLIENTS


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error, which each client stores differently."""
    response = getattr(error, "response", getattr(error.__cause__, "response", None))
    if isinstance(response, dict):  # botocore
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif response is not None:  # requests and httpx
        value = getattr(response, "status_code", None)
    elif hasattr(error, "status"):  # aiohttp
        value = error.status
    else:  # gcsfs
        value = getattr(error, "code", None)
    return int(value) if str(value).isdigit() else None


def _explained(url: str, error: BaseException) -> BadInputError | None:
    """Return the error of a request that cannot succeed; None if another try may help."""
    if isinstance(error, FileNotFoundError):
        return None
    status, text = _status(error), _text(error)
    if (
        isinstance(error, PermissionError)
        or status in _DENIED
        or "Credentials" in type(error).__name__
        or text.startswith("Forbidden: ")  # gcsfs has no exception for it
    ):
        protocol = urlsplit(url).scheme.replace("gcs", "gs")
        remedy = _CREDENTIALS.get(protocol, "check the URL; it may have expired")
        return BadInputError(f"{url}: access is denied ({text}); {remedy}")
    if isinstance(error, ValueError) and "range requests" in text:
        return BadInputError(f"{url}: its server cannot send parts of a file; download it first")
    refused = status is not None and 400 <= status < 500 and status not in _ABSENT | _TRANSIENT
    if refused or (isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)):
        return BadInputError(f"{url}: {text}; correct the URL")
    return None


def _unreachable(url: str, error: BaseException) -> UnreachableError:
    return UnreachableError(
        f"{url}: {_text(error)}; run the same command again when it can be reached"
    )


def _text(error: BaseException) -> str:
    text = re.sub(r"\?[^\s)'\"]+", "", str(error))  # the query of a URL may contain a token
    if isinstance(error, TimeoutError) and not text:
        return f"no answer within {_TIMEOUT:.0f} s"
    return " ".join(text.split())[:200] or type(error).__name__
