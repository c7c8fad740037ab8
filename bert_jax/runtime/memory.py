"""The memory of this machine."""

from __future__ import annotations

import os


def physical_memory() -> int:
    """Return the bytes of memory, used or not."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
