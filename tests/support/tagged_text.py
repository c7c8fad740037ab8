"""Files of tagged sentences."""

from __future__ import annotations

from pathlib import Path

from pipelines.tasks.task import Columns

DEFAULT = Columns()


def write_file(folder: Path, text: str | bytes, name: str = "data.conll") -> str:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)
