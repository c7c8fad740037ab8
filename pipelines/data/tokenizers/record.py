"""A tokenizer folder with the record of how it was made, written and found again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import remove
from pipelines.data.tokenizers.tokenizer import DIGEST, RECORD, Tokenizer, load
from pipelines.folders import check_same, exclusive, own
from pipelines.json_files import read_json

# Options that records of earlier versions lack.
_DEFAULTS = {"keep_accents": False}


def exists(out: Path, record: Mapping[str, Any]) -> bool:
    """Return whether `out` contains a tokenizer that was made as `record` states.

    Raises:
        BadInputError: The folder contains another tokenizer, or other files.
    """
    own(out, "--out", (RECORD,))
    if not (out / RECORD).is_file():
        return False
    try:
        existing = read_json(out / RECORD)
    except BadInputError as error:
        raise BadInputError(f"{error}, or remove {out} and train it again") from None
    check_same(_DEFAULTS | existing, record, f"the tokenizer in {out}")
    load(out)
    return True


def write(tokenizer: Tokenizer, out: Path, record: Mapping[str, Any]) -> None:
    """Write the tokenizer and its record atomically.

    Raises:
        DeviceUnavailableError: Another process is writing them.
    """
    draft = out.with_name(f"{out.name}.tmp")
    with _locked(draft):
        if exists(out, record):  # another process wrote it while this one trained
            remove(draft)
            return
        tokenizer.save(draft)
        content = {**record, DIGEST: tokenizer.digest}
        (draft / RECORD).write_text(json.dumps(content) + "\n", "utf-8")
        draft.replace(out)


def _locked(draft: Path) -> ExitStack:
    """Make `draft` and lock it; another process may just have renamed it to the final folder."""
    lock = ExitStack()
    while True:
        draft.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # renamed in between
            lock.enter_context(exclusive(draft))
            return lock
