"""Where files are: on this machine, or in Google Cloud Storage as ``gs://BUCKET/NAME``.

A local path is one of pathlib. One in a bucket is one of etils' epath, which has the same methods
and does them with gcsfs; Orbax uses the same library. A bucket has no folders, only names with
slashes in them: what is written appears as a whole, and nothing can be appended to or locked.
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

# Read when the libraries are imported. TensorFlow, where it is installed, is not needed here. The
# newer way of gcsfs asks for the kind of a bucket over gRPC, which needs a permission of its own.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# It logs every failure with a traceback, and then raises it as well.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

# Of these packages come the failures of Google Cloud Storage.
_CLIENTS = {"aiohttp", "fsspec", "gcsfs", "google", "requests", "urllib3"}
# TensorStore raises ValueError for everything; this is how it names what is no fault of the files.
_STATUS = re.compile(r"\b(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED)\b")
_REMEDY = (
    "it needs the roles Storage Object Admin and Storage Legacy Bucket Reader on the bucket; who is"
    " asking, gcloud auth application-default login decides, or the service account of the machine"
)


def at(name: str | Path) -> Path:
    """The path `name`; if it is in a bucket, that can be reached.

    Raises:
        BadInputError: There is no such bucket, it may not be read, or gcsfs is not installed.
        UserError: The bucket cannot be reached now.
    """
    text = str(name)
    if not text.startswith(CLOUD):
        return Path(name)
    bucket = text.removeprefix(CLOUD).partition("/")[0]
    if not bucket:
        raise BadInputError(f"{text} names no bucket; write gs://BUCKET/NAME")
    try:
        kind = _library()
    except ImportError as error:
        raise BadInputError(
            f"{text} needs {error.name}; install it with: pip install 'bert-jax[cloud]'"
        ) from None
    _reach(bucket)
    return cast(Path, kind(text))


@cache
def _library() -> Any:
    """The class of paths in buckets."""
    import fsspec
    import gcsfs  # noqa: F401
    from etils import epath

    # Other processes write too, so what was there before says nothing.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    # The loop that a large object would lock moves nothing but files.
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
                f"there is no bucket {CLOUD}{bucket}; mend the name, or make it with: gcloud"
                f" storage buckets create {CLOUD}{bucket}"
            ) from None


def region_of(bucket: Path) -> str:
    """Where the bucket of a path is, such as us-central2, or eu for a multi-region."""
    import fsspec

    name = str(bucket).removeprefix(CLOUD).partition("/")[0]
    with failures_explained(f"{CLOUD}{name}"):
        return str(
            fsspec.filesystem("gs").call("GET", "b/{}", name, json_out=True)["location"]
        ).lower()


def is_remote(path: Path) -> bool:
    """Whether it is in a bucket."""
    return str(path).startswith(CLOUD)


def absolute(path: Path) -> Path:
    """The same, whatever the working directory."""
    return path if is_remote(path) else path.absolute()  # epath takes a bucket for a folder here


def check_kind(path: Path) -> None:
    """Refuses what is there and neither a file nor a folder: a pipe or a device never ends.

    Raises:
        BadInputError: It is one.
    """
    if is_remote(path):
        return
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says why
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise BadInputError(f"{path} is a pipe or device; put a file in its place")


def remove(folder: Path) -> None:
    """Removes a folder with everything in it, if it is there."""
    if is_remote(folder):
        cast(Any, folder).rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def failures_explained(what: str = "Google Cloud Storage") -> Iterator[None]:
    """Turns failures of Google Cloud Storage into one line each, about `what`.

    Raises:
        BadInputError: Access is refused.
        UserError: Something that may be over when it is tried again.
    """
    try:
        yield
    except Exception as error:
        found = explained(error, what)
        if found is None:
            raise
        raise found from error


def explained(error: Exception, what: str = "Google Cloud Storage") -> UserError | None:
    """What to say about `error`, if it is a failure of Google Cloud Storage."""
    text = " ".join(str(error).split("[http_response")[0].split())
    text = re.sub(r"\?[^\s)]+", "", text)  # what follows an address may be a token
    status = _STATUS.search(text) if isinstance(error, ValueError) and CLOUD in text else None
    forbidden = text.startswith("Forbidden: ")  # gcsfs has no exception of its own for this
    ours = type(error).__module__.partition(".")[0] in _CLIENTS
    if not (ours or status or forbidden):
        return None
    line = f"{what}: {text[:300] or type(error).__name__}"
    refused = getattr(error, "code", None) in (401, 403) or "Credentials" in type(error).__name__
    if refused or forbidden or (status and status[0] in ("PERMISSION_DENIED", "UNAUTHENTICATED")):
        return BadInputError(f"{line}; {_REMEDY}")
    return UnreachableError(f"{line}; when it can be reached again, the same command goes on")
