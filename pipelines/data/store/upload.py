"""Write a store to a bucket: it is made in a local folder, and uploaded when it is finished.

The ledger is uploaded last, so an incomplete upload does not count as a store.
"""

from __future__ import annotations

from pathlib import Path

from bert_jax.runtime.console import progress, say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.data.sources import remote
from pipelines.data.sources.locations import find, is_url
from pipelines.data.store.card import FILES
from pipelines.data.store.token_store import LEDGER, TOKENIZER, WORK

_PROTOCOLS = ("gs", "s3")


def local_folder(out: str, scratch: str | None) -> Path:
    """Return the folder in which the store `out` is made; check that it may be uploaded.

    Args:
        out: A local folder, or a URL.
        scratch: The folder, if `out` is a URL.

    Raises:
        BadArgumentsError: `scratch` is missing or not needed, or `out` has another protocol.
        BadInputError: `out` contains other files.
        UnreachableError: The bucket cannot be reached.
    """
    if not is_url(out):
        if scratch is not None:
            raise BadArgumentsError(f"--scratch {scratch} needs an --out in a bucket; remove it")
        return Path(out)
    if out.partition("://")[0] not in _PROTOCOLS:
        raise BadArgumentsError(
            f"--out {out}: write gs://BUCKET/NAME, s3://BUCKET/NAME or a folder"
        )
    if not scratch or is_url(scratch):
        raise BadArgumentsError(
            f"--out {out} needs --scratch FOLDER, a local folder in which the store is made"
        )
    folder, out = Path(scratch), out.rstrip("/")
    names = {each.name for each in remote.entries(out)}
    of_stores = {LEDGER, TOKENIZER, WORK, *FILES}
    other = {name for name in names - of_stores if not name.endswith(".npy")}
    if other:
        raise BadInputError(
            f"--out {out} contains other files ({min(other)}, …); choose an empty folder"
        )
    ledger = folder / LEDGER
    if LEDGER in names and not (ledger.is_file() and _content(out) == ledger.read_bytes()):
        raise BadInputError(
            f"--out {out} is a store already, and not the one in --scratch {scratch}; choose"
            " another --out, or remove it"
        )
    return folder


def upload_store(folder: Path, out: str) -> None:
    """Upload a finished store, unless it is uploaded already.

    Raises:
        BadInputError: Access is denied, or the bucket does not exist.
        UnreachableError: The bucket cannot be reached.
    """
    out = out.rstrip("/")
    if find(f"{out}/{LEDGER}"):
        say(f"{out}: already exists")
        return
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LEDGER]
    total = sum(path.stat().st_size for path in files)
    done = 0
    with progress("uploading, MB", max(1, total >> 20)) as update:
        for path in files:
            remote.write(f"{out}/{path.relative_to(folder).as_posix()}", path)
            done += path.stat().st_size
            update(done >> 20, "")
        remote.write(f"{out}/{LEDGER}", folder / LEDGER)
    say(f"{out}: uploaded; {folder} can be removed")


def _content(out: str) -> bytes:
    [file] = find(f"{out}/{LEDGER}")
    with file.open() as content:
        return content.read()
