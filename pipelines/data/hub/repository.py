"""Names, lists of files and errors of repositories of the Hugging Face hub.

    hf:ORG/NAME[@REVISION]       a repository at a branch, tag or commit (default: main)

Tokens, cache, endpoint and offline mode are those of huggingface_hub.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, UnreachableError, UserError
from pipelines.data.sources import remote

HUB = "hf:"
PROGRAM = "bert-jax"  # in the headers of requests
TIMEOUT = 30.0  # seconds without a byte

_PATIENCE = 15.0  # seconds until the list of a repository that is not in the cache is given up
_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_NAME = re.compile(rf"(?P<name>{_PART}(/{_PART})?)(@(?P<revision>[\w.+/-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        name: Its path in the repository.
        size: Its bytes.
        digest: SHA-256 of a large file, or the object id that Git gives to a small one.
    """

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit.

    Attributes:
        commit: The commit.
        files: Name -> file.
        is_complete: False for the files in the cache, where others may be missing.
    """

    commit: str
    files: dict[str, RemoteFile]
    is_complete: bool


@dataclass(frozen=True)
class Repository:
    """A repository at a revision.

    Attributes:
        name: ORG/NAME.
        revision: Branch, tag or commit; empty = main.
        kind: What it contains.
    """

    name: str
    revision: str = ""
    kind: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        """Return the name as users write it."""
        return f"{HUB}{self.name}" + (f"@{self.revision}" if self.revision else "")

    @property
    def folder(self) -> Path:
        """The folder of the repository in the cache: blobs, refs and snapshots."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"{self.kind}s--{self.name.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        """Return the folder of the files of a commit in the cache."""
        return self.folder / "snapshots" / commit

    def request(self, function: Callable[[], _T], patience: float | None = None) -> _T:
        """Send a request; repeat it while its server is busy.

        Raises:
            BadInputError: The hub refuses the request, or there is no such repository.
            UnreachableError: The hub does not respond.
        """

        def send() -> _T:
            from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

            try:
                return function()
            except OfflineModeIsEnabled:
                raise self.absent_offline() from None
            except HfHubHTTPError as error:
                raise self._explained(error) or error from None
            except OSError as error:
                # A local file, such as that of the token; errors of connections name none.
                if error.filename or error.errno in _DISK:
                    raise unwritable(error, self.folder) from None
                raise

        return remote.repeated(str(self), send, patience)

    def absent_offline(self) -> BadInputError:
        """Return the error of files that are not in the cache."""
        return BadInputError(
            f"{self} is not in the cache, {self.folder.parent}, and HF_HUB_OFFLINE forbids"
            " requests; unset it, or copy the cache of a machine that has downloaded it"
        )

    def _explained(self, error: Any) -> UserError | None:
        from huggingface_hub import constants
        from huggingface_hub.errors import (
            DisabledRepoError,
            EntryNotFoundError,
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        status = error.response.status_code
        data_sets = "datasets/" if self.kind == "dataset" else ""
        page = f"{constants.ENDPOINT}/{data_sets}{self.name}"
        if isinstance(error, GatedRepoError):
            return BadInputError(
                f"{self} is gated: accept its terms at {page}, then log in with: hf auth login"
            )
        if isinstance(error, RevisionNotFoundError):
            return BadInputError(
                f"{self}: the repository has no revision {self.revision or 'main'!r}; its branches"
                f" and commits are at {page}/commits/main"
            )
        if isinstance(error, DisabledRepoError):
            return BadInputError(f"{self} was disabled by the hub; see {page}")
        if isinstance(error, EntryNotFoundError):
            return BadInputError(f"{self}: a file is listed, but does not exist: {page}")
        if isinstance(error, RepositoryNotFoundError) or status == 404:
            return BadInputError(
                f"{self}: {constants.ENDPOINT} has no {self.kind} of this name, or it is private;"
                " check the name, or log in with: hf auth login"
            )
        if status == 401:
            return BadInputError(
                f"{self}: the hub rejects the token; log in again with hf auth login, or correct"
                " HF_TOKEN"
            )
        if status == 403:
            return BadInputError(
                f"{self}: the token has no permission for this request; create another at"
                f" {constants.ENDPOINT}/settings/tokens"
            )
        return None


def unwritable(error: OSError, folder: Path) -> BadInputError:
    """Return the error of a file of huggingface_hub that cannot be read or written."""
    return BadInputError(
        f"{error.filename or folder}: {error.strerror or error}; set HF_HOME to another folder"
    )


def is_hub_name(name: object) -> bool:
    """Return True for ``hf:…``."""
    return str(name).startswith(HUB)


def repository(name: object, kind: Literal["model", "dataset"] = "model") -> Repository:
    """Return the repository of ``hf:ORG/NAME[@REVISION]``.

    Raises:
        BadInputError: The name has another form.
    """
    text = str(name).removeprefix(HUB).lstrip("/")  # hf://ORG/NAME, as in fsspec
    match = _NAME.fullmatch(text)
    revision = (match["revision"] or "") if match else ""
    if not match or ".." in text or PurePosixPath(revision).is_absolute():
        raise BadInputError(
            f"{name} is not the name of a repository; write {HUB}ORG/NAME, or"
            f" {HUB}ORG/NAME@REVISION for a branch, tag or commit"
        )
    return Repository(match["name"], revision, kind)


def listing(source: Repository) -> Listing:
    """List the files of a repository; those in the cache if the hub cannot be reached.

    Raises:
        BadInputError: There is no such repository or revision, or access is denied.
        UnreachableError: The hub does not respond, and nothing is in the cache.
    """
    from huggingface_hub import constants

    cached = _cached(source)
    if constants.is_offline_mode():
        if cached is None:
            raise source.absent_offline()
        return cached
    try:
        return source.request(lambda: _listed(source), 0.0 if cached else _PATIENCE)
    except UnreachableError as error:
        if cached is None:
            raise
        say(f"{error}; using commit {cached.commit[:12]} of the cache (HF_HUB_OFFLINE=1: no tries)")
        return cached


def _listed(source: Repository) -> Listing:
    from huggingface_hub import HfApi

    info: Any = HfApi(library_name=PROGRAM).repo_info(
        source.name,
        repo_type=source.kind,
        revision=source.revision or None,
        files_metadata=True,
        timeout=TIMEOUT,
    )
    files = {}
    for item in info.siblings or ():
        digest = item.lfs.sha256 if item.lfs else item.blob_id
        name = PurePosixPath(item.rfilename)
        if item.size is None or not _DIGEST.fullmatch(str(digest)):
            raise BadInputError(
                f"{source}: the server lists no sizes and checksums; unset HF_ENDPOINT"
            )
        if not name.is_absolute() and ".." not in name.parts:
            files[item.rfilename] = RemoteFile(item.rfilename, item.size, str(digest))
    if not _COMMIT.fullmatch(str(info.sha)):
        raise BadInputError(f"{source}: the server names no commit; unset HF_ENDPOINT")
    return Listing(str(info.sha), files, is_complete=True)


def _cached(source: Repository) -> Listing | None:
    revision = source.revision or "main"
    reference = source.folder / "refs" / revision
    commit = revision
    if not _COMMIT.fullmatch(revision):
        commit = reference.read_text("utf-8").strip() if reference.is_file() else ""
    snapshot = source.snapshot(commit)
    if not _COMMIT.fullmatch(commit) or not snapshot.is_dir():
        return None
    files = {}
    for path in sorted(snapshot.rglob("*")):
        if path.is_file():  # a link to its blob, whose name is the checksum
            name = path.relative_to(snapshot).as_posix()
            files[name] = RemoteFile(name, path.stat().st_size, path.resolve().name)
    return Listing(commit, files, is_complete=False)
