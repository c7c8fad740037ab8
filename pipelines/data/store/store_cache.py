"""Copy a store in a bucket, or on a slow network disk, to the disk of this machine.

A store is read at random, so it must be local. `copy_store` copies it once. Every file is compared
with the ledger, whether it was copied now, by an earlier call that was interrupted, or by another
process. The ledger is copied last, so that an incomplete copy does not count as a store.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from bert_jax.runtime.console import progress, say
from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.runtime.paths import CLOUD, at, failures_explained, remove
from pipelines.data.store.card import FILES
from pipelines.data.store.shards import write_json
from pipelines.data.store.token_store import (
    LEDGER,
    PARTS,
    TOKENIZER,
    Ledger,
    read_ledger,
    sha256,
    token_dtype,
)
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.folders import exclusive

STORES = "BERT_JAX_STORES"  # environment variable: folder of the copies
_PARALLEL_COPIES = 8
_CHUNK = 1 << 23


def ensure_local(store: str) -> Path:
    """Return the folder of a store; a store in a bucket is copied into the user's cache.

    Raises:
        BadInputError: There is no store, or a file is damaged.
        UserError: The disk is full, or the bucket cannot be reached.
    """
    path = cache_path(store)
    return copy_store(store, path) if store.startswith(CLOUD) else path


def cache_path(store: str) -> Path:
    """Return the folder of a store on this machine, or of its future copy.

    Raises:
        BadInputError: There is no store in the bucket.
        UserError: The bucket cannot be reached.
    """
    if not store.startswith(CLOUD):
        return Path(store)
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    stores = os.environ.get(STORES) or Path(home) / "bert-jax" / "stores"
    return Path(stores) / read_ledger(at(store)).digest[:16]


def copy_store(source: str, target: Path) -> Path:
    """Copy the missing files of the store `source` to the folder `target`.

    Of several processes one copies and the others wait for it.

    Args:
        source: ``gs://…`` or a folder, made by bert-jax prepare.
        target: Folder of the copy, new or from an earlier call.

    Returns:
        `target`.

    Raises:
        BadInputError: There is no store, or a file is damaged.
        UserError: The disk is full, or the bucket cannot be reached.
    """
    folder = at(source)
    ledger = read_ledger(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with exclusive(target, wait=True), failures_explained(source):
            _complete(folder, target, ledger)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{target}: the disk is full ({error.strerror}); make room, or set {STORES} to a"
            " folder on a larger disk"
        ) from error
    return target


def _complete(folder: Path, target: Path, ledger: Ledger) -> None:
    """Copy the files that are missing or do not match the ledger."""
    finished = (target / LEDGER).is_file()
    if finished and read_ledger(target).digest != ledger.digest:
        raise BadInputError(f"{target} contains another store than {folder}; choose another folder")
    files = list(_files(ledger))
    needed = sum(size for name, _, size in files if not (target / name).is_file())
    free = shutil.disk_usage(target).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")
    if needed:
        say(f"{folder}: copying about {needed:,} bytes to {target}")
    _copy_files(folder, target, files)
    if not _has_tokenizer(target / TOKENIZER, ledger):
        _copy_tokenizer(folder, target, ledger)
    if finished:
        return
    for name in FILES:
        with suppress(FileNotFoundError):  # in a store of an older version
            (target / name).write_bytes((folder / name).read_bytes())
    write_json(target / LEDGER, asdict(ledger))


def _files(ledger: Ledger) -> Iterator[tuple[str, str, int]]:
    """Yield name, SHA-256 and approximate size of every file of the shards."""
    token = token_dtype(ledger.vocab_size).itemsize
    for shard in chain.from_iterable(ledger.splits.values()):
        sizes = (shard.tokens * token, shard.sentences * 2, shard.documents * 4)
        for part, size in zip(PARTS, sizes, strict=True):
            yield f"{shard.name}.{part}.npy", shard.sha256[part], size


def _copy_files(folder: Path, target: Path, files: list[tuple[str, str, int]]) -> None:
    """Compare and copy several files at a time; stop all when one fails."""
    done, lock, stop = 0, threading.Lock(), threading.Event()
    total = sum(size for _, _, size in files)
    with (
        progress("copying MiB", total >> 20) as update,
        ThreadPoolExecutor(_PARALLEL_COPIES) as pool,
    ):

        def copy_if_needed(name: str, digest: str, size: int) -> None:
            nonlocal done
            if not (target / name).is_file() or sha256(target / name) != digest:
                _copy(folder / name, target / name, digest, stop)
            with lock:
                done += size
                update(done >> 20, "")

        try:
            for future in as_completed([pool.submit(copy_if_needed, *file) for file in files]):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _copy(source: Path, target: Path, digest: str, stop: threading.Event) -> None:
    draft = target.with_name(f"{target.name}.part")
    copied = hashlib.sha256()
    try:
        with source.open("rb") as reader, draft.open("wb") as writer:
            while not stop.is_set() and (chunk := reader.read(_CHUNK)):
                copied.update(chunk)
                writer.write(chunk)
        if stop.is_set():
            return
        if copied.hexdigest() != digest:
            raise BadInputError(
                f"{source} does not match the ledger (its SHA-256 differs); upload the store"
                " again, or prepare it again"
            )
        draft.rename(target)
    except FileNotFoundError:
        raise BadInputError(f"{source} is missing; upload the store again") from None
    finally:
        draft.unlink(missing_ok=True)


def _has_tokenizer(folder: Path, ledger: Ledger) -> bool:
    try:
        return tokenizers.load(folder).digest == ledger.tokenizer
    except BadInputError:
        return False


def _copy_tokenizer(folder: Path, target: Path, ledger: Ledger) -> None:
    tokenizer = tokenizers.load(folder / TOKENIZER)
    if tokenizer.digest != ledger.tokenizer:
        raise BadInputError(
            f"{folder / TOKENIZER} is not the tokenizer that made the store; upload the store"
            " again, or prepare it again"
        )
    draft = target / f"{TOKENIZER}.part"
    tokenizer.save(draft)
    remove(target / TOKENIZER)
    draft.rename(target / TOKENIZER)
