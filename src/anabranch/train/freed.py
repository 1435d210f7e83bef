"""Memory: what one step frees is kept for the next one, and where there is too little, that is said."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anabranch.errors import RecipeError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of the GNU C library's malloc.h
_NEVER = 2**31 - 1
_HIGHEST_OF_OLDER_ONES = 32 << 20  # half of its HEAP_MAX_SIZE


@contextmanager
def memory_may_run_out() -> Iterator[None]:
    """Raises RecipeError in place of torch's and numpy's own errors where memory runs out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        is_told = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not is_told:
            raise
        raise RecipeError(
            "there is not enough memory for a step; lower optimise.batch or input.crop_px, or raise "
            "optimise.accumulate, which takes a batch in parts"
        ) from error


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
