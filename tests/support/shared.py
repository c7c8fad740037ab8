"""Folders that cost seconds to make and are read by many tests: made once in a session.

All workers of pytest-xdist share them: the first that asks makes a folder, the others wait for it.
They are to be read only; a test that changes a run copies it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Shared = Callable[[str, Callable[[Path], object]], Path]
"""(name, build): the folder of that name, which `build` has filled."""


def shared_folders(factory: pytest.TempPathFactory) -> Shared:
    """Returns `Shared` for the session that `factory` belongs to."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)

    def folder(name: str, build: Callable[[Path], object]) -> Path:
        path, finished = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                # After a failure of another worker it is built anew, which shows the reason again.
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
                build(path)
                finished.touch()
        return path

    return folder
