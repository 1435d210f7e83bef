"""Room on a disk, asked for before much is written to it."""

from __future__ import annotations

import shutil
from pathlib import Path

from anabranch.errors import Error


def want_room(folder: Path, size_bytes: int, *, error: type[Error], otherwise: str) -> None:
    """Raises `error` unless so many bytes are free; `otherwise` is what to do where no room can be made."""
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise error(f"{folder} has room for {free:,} bytes, and {size_bytes:,} are wanted; make room, or {otherwise}")
