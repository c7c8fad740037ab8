"""Tokenizers at URLs and on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.runtime.paths import CLOUD, at
from pipelines.data.hub import models
from pipelines.data.hub.repository import is_hub_name
from pipelines.data.sources.locations import find, is_url
from pipelines.data.tokenizers.tokenizer import (
    CONFIG_FILE,
    JSON_FILE,
    RECORD,
    SENTENCEPIECE_FILE,
    SUBFOLDER,
    VOCAB_FILE,
)

_FILES = (SENTENCEPIECE_FILE, VOCAB_FILE, JSON_FILE, CONFIG_FILE, RECORD)


@contextmanager
def tokenizer_folder(name: str) -> Iterator[Path]:
    """Yield the folder of a tokenizer; the files at a URL are copied to a temporary folder.

    Raises:
        BadInputError: There is no tokenizer, or access is denied.
        UnreachableError: The server does not respond.
    """
    if is_hub_name(name):
        yield models.tokenizer_folder(name)
        return
    if not is_url(name) or name.startswith(CLOUD):
        yield at(name)
        return
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        url = name.rstrip("/")
        if not (_copied(url, folder) or _copied(f"{url}/{SUBFOLDER}", folder / SUBFOLDER)):
            raise BadInputError(
                f"{name} has neither {', nor '.join(_FILES[:3])}; give the folder of a tokenizer"
            )
        try:
            yield folder
        except UserError as error:  # name the file that the user knows
            raise type(error)(str(error).replace(temporary, url)) from None


def _copied(url: str, folder: Path) -> bool:
    """Copy the files of a tokenizer; return False if there are none."""
    folder.mkdir(exist_ok=True)
    files = {name: file for name in _FILES for file in find(f"{url}/{name}")}
    for name, file in files.items():
        with file.open() as content:
            (folder / name).write_bytes(content.read())
    return not files.keys().isdisjoint(_FILES[:3])
