"""Folders that commands write: whose they are, and who writes to them now."""

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

# In a run folder.
RUN_CONFIG = "config.yaml"
RUN_TOKENIZER = "tokenizer"
DATA_CARD = "data.md"  # the card of the store
RUN_RESULTS = "eval_results.json"  # the last evaluation of a fine-tuning run
RUN_LAUNCH = "launch"  # what the machines of a submitted run install
RUN_MARKS = (RUN_CONFIG, "checkpoints", RUN_LAUNCH)  # one of them is in every folder of a run


def own(folder: Path, option: str, marks: tuple[str, ...]) -> None:
    """Refuses to write into a folder that holds other things.

    Args:
        folder: To be written.
        option: That named it.
        marks: One of these names is in every folder of this kind.

    Raises:
        BadArgumentsError: No folder is named.
        BadInputError: It is a file, or holds something but none of `marks`.
    """
    if not is_remote(folder) and (scheme := re.match(r"[a-z0-9]+:/", str(folder))):
        given = str(folder).replace(scheme[0], f"{scheme[0]}/", 1)
        raise BadInputError(
            f"{option} {given} must be a local folder; only a run_dir can be in a bucket (gs://…)"
        )
    if folder == Path():
        raise BadArgumentsError(f"{option} names no folder")
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{option} {folder} is a file, not a folder")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names and names.isdisjoint(marks):
        raise BadInputError(
            f"{option} {folder} holds other things ({min(names)}, …); choose an empty or new folder"
        )


def absent(path: Path, hint: str) -> BadInputError:
    """What is said of a folder that is not there: which one beside it may be meant, or `hint`."""
    beside: list[str] = []
    with suppress(OSError):
        beside = [] if is_remote(path) else [one.name for one in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {path.with_name(close[0])}?" if close else hint
    return BadInputError(f"{path} does not exist; {hint}")


def check_same(made: Mapping[str, Any], asked: Mapping[str, Any], what: str) -> None:
    """Refuses to take `what` for the result of a command that asks for something else.

    Args:
        made: What it was made with.
        asked: What is asked for, with ``corpus`` and the ``files`` that are there now.
        what: For the message.

    Raises:
        BadInputError: Something differs.
    """
    different = [key for key in asked if made.get(key) != asked[key]]
    if different == ["files"]:
        raise BadInputError(
            f"{what} was made before the text of {asked['corpus']} changed (other files or sizes);"
            " remove it, or choose another --out"
        )
    if different:
        details = ", ".join(
            f"{key} {made.get(key)} (asked: {asked[key]})" for key in different if key != "files"
        )
        raise BadInputError(f"{what} was made with {details}; remove it or choose another --out")


@contextmanager
def exclusive(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds `folder`, which must exist, against other processes that ask; ends with the process.

    Args:
        folder: On a disk.
        wait: Until another process that holds it ends, instead of giving up.

    Raises:
        DeviceUnavailableError: Another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems know no locks; there the user has to take care.
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
