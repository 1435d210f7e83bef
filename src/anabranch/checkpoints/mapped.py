"""A file mapped into memory, for libraries that read an archive's list of parts however long it is said to be."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

MAX_DIRECTORY_BYTES = 8 << 20  # an entry takes about 100


def mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Archive:
    """What `zipfile` and `tarfile` read an archive's directory from. ValueError where they would read more of it."""

    def __init__(self, whole: mmap.mmap) -> None:
        self._whole = whole
        self._left = MAX_DIRECTORY_BYTES

    def seek(self, offset: int, whence: Any = os.SEEK_SET) -> int:
        self._whole.seek(offset, whence)
        return self._whole.tell()

    def tell(self) -> int:
        return self._whole.tell()

    def read(self, count: int = -1) -> bytes:
        left = len(self._whole) - self._whole.tell()
        count = left if count < 0 else min(count, left)
        self._left -= count
        if self._left < 0:
            raise ValueError(f"a directory of more than {MAX_DIRECTORY_BYTES} bytes")
        return self._whole.read(count)
