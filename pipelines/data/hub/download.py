"""Download files of the hub into the cache of huggingface_hub, and verify them.

huggingface_hub 2.4 compares sizes, but no checksums, and starts a file again if the process was
interrupted. Here a partial file is kept and completed by the next command, and every file is
compared with the checksum in the list of the repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from bert_jax.runtime.console import progress, say
from bert_jax.runtime.errors import BadInputError, UnreachableError, UserError
from pipelines.data.hub.repository import (
    PROGRAM,
    TIMEOUT,
    Listing,
    RemoteFile,
    Repository,
    unwritable,
)
from pipelines.folders import exclusive


def download(
    source: Repository,
    files: Listing,
    names: Sequence[str],
    check: Callable[[Path], None] = lambda path: None,
    *,
    announce: bool = True,
) -> Path:
    """Return a folder with files of a repository; download those that the cache lacks.

    Args:
        source: The repository.
        files: From `listing`.
        names: Of the files.
        check: Called with the path of the first file before the others are downloaded.
        announce: Print the files and their size.

    Raises:
        BadInputError: Access is denied, or the cache cannot be written.
        UnreachableError: The hub does not respond, or sends other bytes than it lists.
        UserError: The disk has too little space.
    """
    chosen = [files.files[name] for name in names]
    snapshot, blobs = source.snapshot(files.commit), source.folder / "blobs"
    first = snapshot / names[0]
    missing = [file for file in chosen if not _is_intact(snapshot / file.name, file)]
    if missing and not files.is_complete:
        raise BadInputError(
            f"{snapshot / missing[0].name} is damaged; remove it and download it again, with access"
            " to the hub"
        )
    if announce:
        say(_announcement(source, files.commit, chosen, missing))
    if chosen[0] not in missing:
        check(first)
    if not missing:
        if files.is_complete:
            with suppress(OSError):  # a cache that others write
                _name_commit(source, files.commit)
        return snapshot
    try:
        blobs.mkdir(parents=True, exist_ok=True)
        with exclusive(blobs, wait=True):
            total = _bytes_to_download(missing, blobs)
            with progress("downloading bytes", total) as show:
                before = 0
                for file in missing:
                    _fetch(source, files.commit, file, blobs, partial(_shifted, show, before))
                    _link(snapshot / file.name, blobs / file.digest)
                    before += file.size
                    if file is chosen[0]:
                        check(first)
            _name_commit(source, files.commit)
    except OSError as error:
        raise unwritable(error, blobs) from None
    return snapshot


def _shifted(show: Callable[[int, str], None], before: int, size: int) -> None:
    show(before + size, "")


def _announcement(
    source: Repository, commit: str, chosen: Sequence[RemoteFile], missing: Sequence[RemoteFile]
) -> str:
    names = ", ".join(f"{file.name} ({size_text(file.size)})" for file in chosen)
    total = size_text(sum(file.size for file in chosen))
    cache = source.folder.parent
    action = f"all in the cache {cache}"
    if missing:
        action = f"downloading {size_text(sum(file.size for file in missing))} to {cache}"
    return f"{source} at commit {commit[:12]}: {total}, {action}: {names}"


def size_text(size: int) -> str:
    """Return a number of bytes, as in 1.5 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _bytes_to_download(missing: Sequence[RemoteFile], blobs: Path) -> int:
    """Return the bytes of the files; report those of an earlier command, and a full disk."""
    partials = [path for file in missing if (path := _incomplete(blobs, file)).is_file()]
    done, total = sum(path.stat().st_size for path in partials), sum(file.size for file in missing)
    if done:
        say(f"resuming after the {size_text(done)} that an earlier command downloaded")
    free = shutil.disk_usage(blobs).free
    if free < total - done:
        raise UserError(
            f"{blobs} needs {size_text(total - done)}, but {size_text(free)} are free; make room,"
            " or set HF_HOME to another disk"
        )
    return total


def _incomplete(blobs: Path, file: RemoteFile) -> Path:
    return blobs / f"{file.digest}.incomplete"


def _fetch(
    source: Repository, commit: str, file: RemoteFile, blobs: Path, show: Callable[[int], None]
) -> None:
    """Download a blob, unless it is intact."""
    blob, incomplete = blobs / file.digest, _incomplete(blobs, file)
    if not _is_intact(blob, file):
        blob.unlink(missing_ok=True)
        _Fetch(source, commit, file, incomplete).run(show)
        incomplete.replace(blob)


class _Fetch:
    """The download of one file."""

    def __init__(self, source: Repository, commit: str, file: RemoteFile, incomplete: Path) -> None:
        from huggingface_hub import hf_hub_url

        self._source, self._file, self._incomplete = source, file, incomplete
        self._url = hf_hub_url(source.name, file.name, repo_type=source.kind, revision=commit)

    def run(self, show: Callable[[int], None]) -> None:
        """Complete the partial file; if it is wrong then, download it once more."""
        for _ in range(2):
            if self._size() > self._file.size:
                self._incomplete.unlink()
            while self._size() < self._file.size:
                before = self._size()
                try:
                    self._source.request(lambda: self._append(show))
                except UnreachableError:
                    if self._size() <= before:
                        raise
            if _is_intact(self._incomplete, self._file):
                return
            self._incomplete.unlink(missing_ok=True)
            say(f"{self._source}: {self._file.name} has another checksum than the hub lists")
        raise self._wrong()

    def _wrong(self) -> UnreachableError:
        return UnreachableError(
            f"{self._source}: the hub lists {self._file.size:,} bytes with the checksum"
            f" {self._file.digest[:12]} for {self._file.name}, but other bytes arrive; check the"
            " proxy or HF_ENDPOINT, and run the same command again"
        )

    def _size(self) -> int:
        return self._incomplete.stat().st_size if self._incomplete.is_file() else 0

    def _append(self, show: Callable[[int], None]) -> None:
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = build_hf_headers(library_name=PROGRAM) | {"Accept-Encoding": "identity"}
        with self._incomplete.open("ab") as content:
            start = content.tell()
            if start:
                headers["Range"] = f"bytes={start}-"
            with get_session().stream(
                "GET", self._url, headers=headers, timeout=TIMEOUT, follow_redirects=True
            ) as response:
                if response.status_code == 416:  # the file of the server is shorter
                    content.truncate(0)
                    raise self._wrong()
                hf_raise_for_status(response)
                if response.status_code != 206:  # the whole file
                    content.truncate(0)
                for block in response.iter_bytes():
                    content.write(block)
                    show(content.tell())
                    if content.tell() > self._file.size:
                        break  # wrong, and maybe without end
            received = content.tell()
        if received < self._file.size:
            raise OSError(
                f"{received:,} of {self._file.size:,} bytes of {self._file.name} were received"
            )


def _is_intact(path: Path, file: RemoteFile) -> bool:
    """Return whether a file has the bytes of its checksum."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    state = hashlib.sha256()
    if len(file.digest) == 40:
        state = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    elif len(file.digest) != 64:
        return True  # a copy in the cache of a server with other names of blobs
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: state).hexdigest() == file.digest


def _link(link: Path, blob: Path) -> None:
    """Give a blob its name in a snapshot, as huggingface_hub does."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)  # it was damaged
    try:
        link.symlink_to(os.path.relpath(blob, link.parent))
    except OSError:  # a file system without links
        shutil.copyfile(blob, link)


def _name_commit(source: Repository, commit: str) -> None:
    """Store the commit of a branch, for offline use."""
    if source.revision == commit:
        return
    reference = source.folder / "refs" / (source.revision or "main")
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit, "utf-8")
