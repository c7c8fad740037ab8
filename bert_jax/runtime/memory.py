"""The memory of this machine."""

from __future__ import annotations

import ctypes
import os


def physical_memory() -> int:
    """Return the bytes of memory, used or not."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# Options of glibc's mallopt(3), see its <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next arrays.

    By default, glibc gives large arrays back to Linux, and every step of a training on CPUs asks
    for them again, page by page: this takes a tenth of its time. Without glibc, or where
    GLIBC_TUNABLES chooses another way, nothing changes.
    """
    if "GLIBC_TUNABLES" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in ((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
        mallopt(option, value)
