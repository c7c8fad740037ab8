"""Folders that many tests read, built once per session.

All workers of pytest-xdist share them: the first builds a folder, the others wait. Tests must not
change them; a test that changes a run copies it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Shared = Callable[[str, Callable[[Path], object]], Path]
"""(name, build): returns the folder of that name, filled by `build`."""


def shared_folders(factory: pytest.TempPathFactory) -> Shared:
    """Return `Shared` for the session of `factory`."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)

    def folder(name: str, build: Callable[[Path], object]) -> Path:
        path, finished = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                # Rebuild after a failure in another worker, to show the error here as well.
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
                build(path)
                finished.touch()
        return path

    return folder
