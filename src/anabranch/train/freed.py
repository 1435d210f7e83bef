"""Memory that one step frees, kept for the next one."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of the GNU C library's malloc.h
_NEVER = 2**31 - 1
_HIGHEST_OF_OLDER_ONES = 32 << 20  # half of its HEAP_MAX_SIZE


def keep_freed_memory() -> None:
    """Have the GNU C library give nothing back to the system; under any other one, do nothing.

    It would give back each large tensor, and the next step would have the pages faulted in and cleared anew.
    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        if not libc.mallopt(_MMAP_THRESHOLD, _NEVER):
            libc.mallopt(_MMAP_THRESHOLD, _HIGHEST_OF_OLDER_ONES)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
