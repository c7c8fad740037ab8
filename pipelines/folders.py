"""Folders that commands write: their kinds, their marks and their locks."""

from __future__ import annotations

import difflib
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError, DeviceUnavailableError
from bert_jax.runtime.paths import is_remote

# Names in a run folder.
RUN_CONFIG = "config.yaml"
RUN_TOKENIZER = "tokenizer"
DATA_CARD = "data.md"  # the card of the store
RUN_RESULTS = "eval_results.json"  # the last evaluation of a fine-tuning run
RUN_LAUNCH = "launch"  # bundle for the machines of a submitted run
INITIAL_VALUES = "initial_values.npz"
INITIAL_VALUES_DRAFT = f"{INITIAL_VALUES}.tmp"
# Every run folder has one of these; one that was interrupted while it counted, only the last two.
RUN_MARKS = (RUN_CONFIG, "checkpoints", RUN_LAUNCH, INITIAL_VALUES, INITIAL_VALUES_DRAFT)


def own(folder: Path, option: str, marks: tuple[str, ...]) -> None:
    """Refuse to write to a folder with other contents.

    Args:
        folder: To write.
        option: The option or key of the folder.
        marks: Every folder of this kind contains one of these names.

    Raises:
        BadArgumentsError: The name of the folder is empty.
        BadInputError: It is a file, or contains files but none of `marks`.
    """
    if not is_remote(folder) and (scheme := re.match(r"[a-z0-9]+:/", str(folder))):
        url = str(folder).replace(scheme[0], f"{scheme[0]}/", 1)
        raise BadInputError(
            f"{option} {url} must be a local folder; only a run_dir can be in a bucket (gs://…)"
        )
    if folder == Path():
        raise BadArgumentsError(f"{option} is empty; give a folder")
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{option} {folder} is a file; give a folder")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names and names.isdisjoint(marks):
        raise BadInputError(
            f"{option} {folder} contains other files ({min(names)}, …); choose an empty folder"
        )


def absent(path: Path, hint: str) -> BadInputError:
    """Return the error for a missing folder, with the most similar sibling, or else `hint`."""
    siblings: list[str] = []
    with suppress(OSError):
        siblings = [] if is_remote(path) else [sibling.name for sibling in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {path.with_name(close[0])}?" if close else hint
    return BadInputError(f"{path} does not exist; {hint}")


def check_same(existing: Mapping[str, Any], requested: Mapping[str, Any], name: str) -> None:
    """Refuse to treat an existing result as that of a command with other options.

    Args:
        existing: The options of the result.
        requested: The options of the command, with ``corpus`` and its present ``files``.
        name: The result, for the message.

    Raises:
        BadInputError: An option differs.
    """
    different = [key for key in requested if existing.get(key) != requested[key]]
    if different == ["files"]:
        raise BadInputError(
            f"{name} was made before the files of {requested['corpus']} changed (other names or"
            " sizes); remove it, or choose another --out"
        )
    if different:
        details = ", ".join(
            f"{key} {existing.get(key)} (requested: {requested[key]})"
            for key in different
            if key != "files"
        )
        raise BadInputError(f"{name} was made with {details}; remove it or choose another --out")


@contextmanager
def exclusive(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock `folder`, which must exist; the lock ends with the process.

    Args:
        folder: On a disk.
        wait: Wait for another process to release the lock, instead of raising.

    Raises:
        DeviceUnavailableError: Another process has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks; there the user must not start a second process.
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES) and wait:
            say(f"waiting for another process that writes to {folder}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        elif error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            raise DeviceUnavailableError(
                f"another process is writing to {folder}; wait for it or stop it"
            ) from None
    try:
        yield
    finally:
        os.close(descriptor)
