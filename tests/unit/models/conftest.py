"""Models that tests change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.hugging_face_folders import THEIRS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of a folder that transformers wrote."""
    return Path(shutil.copytree(THEIRS, tmp_path / "theirs"))
