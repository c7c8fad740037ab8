"""Paths on this machine, or in Google Cloud Storage as ``gs://BUCKET/NAME``.

Local paths are those of pathlib. Paths in a bucket are those of etils' epath, which has the same
methods on top of gcsfs; Orbax uses the same library. A bucket has no folders, only names with
slashes. Objects appear as a whole, and cannot be appended to or locked.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from bert_jax.runtime.errors import BadInputError, UnreachableError, UserError

CLOUD = "gs://"

# The libraries read these on import. TensorFlow is not needed here, even if it is installed. The
# newer mode of gcsfs requests the type of a bucket over gRPC, which needs another permission.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# gcsfs logs every failure with a traceback before it raises it.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

# Packages that raise the failures of Google Cloud Storage.
# The first bytes of what Git LFS checks out without its files; a pointer has about 130 bytes.
_GIT_LFS, _LARGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024
_CLIENTS = {"aiohttp", "fsspec", "gcsfs", "google", "requests", "urllib3"}
# TensorStore raises ValueError for everything. These codes do not mean that a file is damaged.
_STATUS = re.compile(r"\b(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED)\b")
_REMEDY = (
    "grant the roles Storage Object Admin and Storage Legacy Bucket Reader on the bucket to the"
    " account of gcloud auth application-default login, or to the machine's service account"
)


def at(name: str | Path) -> Path:
    """Return `name` as a path; check that its bucket, if any, can be reached.

    Raises:
        BadInputError: The bucket does not exist, access is denied, or gcsfs is not installed.
        UserError: The bucket cannot be reached now.
    """
    text = str(name)
    if not text.startswith(CLOUD):
        return Path(name)
    bucket = text.removeprefix(CLOUD).partition("/")[0]
    if not bucket:
        raise BadInputError(f"{text} has no bucket name; write gs://BUCKET/NAME")
    try:
        path_class = _path_class()
    except ImportError as error:
        raise BadInputError(
            f"{text} needs {error.name}; install it with: pip install 'bert-jax[cloud]'"
        ) from None
    _reach(bucket)
    return cast(Path, path_class(text))


@cache
def _path_class() -> Any:
    import fsspec
    import gcsfs  # noqa: F401
    from etils import epath

    # Other processes write as well, so cached listings are stale.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    # A large object blocks the event loop, but only file transfers use that loop.
    warnings.filterwarnings("ignore", "Sending a large body", ResourceWarning)
    return epath.Path


@cache
def _reach(bucket: str) -> None:
    import fsspec

    with failures_explained(f"{CLOUD}{bucket}"):
        try:
            fsspec.filesystem("gs").call("GET", "b/{}/o", bucket, maxResults=1)
        except FileNotFoundError:
            raise BadInputError(
                f"bucket {CLOUD}{bucket} does not exist; correct the name, or create it with:"
                f" gcloud storage buckets create {CLOUD}{bucket}"
            ) from None


def region_of(bucket: Path) -> str:
    """Return the location of a path's bucket, such as us-central2, or eu for a multi-region."""
    import fsspec

    name = str(bucket).removeprefix(CLOUD).partition("/")[0]
    with failures_explained(f"{CLOUD}{name}"):
        return str(
            fsspec.filesystem("gs").call("GET", "b/{}", name, json_out=True)["location"]
        ).lower()


def is_remote(path: Path) -> bool:
    """Return True for a path in a bucket."""
    return str(path).startswith(CLOUD)


def absolute(path: Path) -> Path:
    """Return the path independent of the working directory."""
    return path if is_remote(path) else path.absolute()  # epath would treat a bucket as a folder


def check_kind(path: Path) -> None:
    """Refuse a pipe or a device, which would be read without end, and a pointer of Git LFS.

    Raises:
        BadInputError: The path is a pipe or a device, or a pointer in place of a file.
    """
    if is_remote(path):
        return
    try:
        status = path.stat()
    except (OSError, ValueError):  # opening it raises the reason
        return
    mode = status.st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise BadInputError(f"{path} is a pipe or device; replace it with a file")
    if stat.S_ISREG(mode) and status.st_size < _LARGEST_POINTER and _is_pointer(path):
        raise BadInputError(
            f"{path} is a Git LFS pointer instead of the file; run git lfs pull in its folder, or"
            " download the file"
        )


def _is_pointer(path: Path) -> bool:
    """Return whether Git stores the content of a file elsewhere."""
    try:
        with path.open("rb") as file:
            return file.read(len(_GIT_LFS)) == _GIT_LFS
    except OSError:  # opening it again raises the reason
        return False


def remove(folder: Path) -> None:
    """Remove a folder with its contents, if it exists."""
    if is_remote(folder):
        cast(Any, folder).rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def failures_explained(what: str = "Google Cloud Storage") -> Iterator[None]:
    """Turn failures of Google Cloud Storage into one-line errors that begin with `what`.

    Raises:
        BadInputError: Access is denied.
        UserError: Another failure; trying again may help.
    """
    try:
        yield
    except Exception as error:
        explanation = explained(error, what)
        if explanation is None:
            raise
        raise explanation from error


def explained(error: Exception, what: str = "Google Cloud Storage") -> UserError | None:
    """Return a one-line error for a failure of Google Cloud Storage; None for other failures."""
    text = " ".join(str(error).split("[http_response")[0].split())
    text = re.sub(r"\?[^\s)]+", "", text)  # the query of an address may contain a token
    status = _STATUS.search(text) if isinstance(error, ValueError) and CLOUD in text else None
    forbidden = text.startswith("Forbidden: ")  # gcsfs has no exception class for it
    from_client = type(error).__module__.partition(".")[0] in _CLIENTS
    if not (from_client or status or forbidden):
        return None
    line = f"{what}: {text[:300] or type(error).__name__}"
    denied = getattr(error, "code", None) in (401, 403) or "Credentials" in type(error).__name__
    if denied or forbidden or (status and status[0] in ("PERMISSION_DENIED", "UNAUTHENTICATED")):
        return BadInputError(f"{line}; {_REMEDY}")
    return UnreachableError(f"{line}; run the same command again when it can be reached")
