"""The beginning of a file, and beside it what its server said of the whole.

.NAME.part         the bytes so far
.NAME.part.json    what the server said when they began to come: `Stated`
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from anabranch import disk
from anabranch.errors import FetchError


class Unobtainable(FetchError):
    """This place does not give the file; another may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What a server says of a file."""

    url: str
    total_bytes: int | None
    validator: str | None = None  # for If-Range: a strong ETag, or when the file was last changed
    linked_sha256: str | None = None  # the Hugging Face hub's word on the file that it redirects to


def begin(part: Path, stated: Stated) -> None:
    """An empty part, whatever it held before."""
    part.write_bytes(b"")
    _beside(part).write_text(json.dumps(asdict(stated)), encoding="utf-8")


def begun(part: Path) -> Stated | None:
    """What was said of this part when it was begun, where it holds something and can be gone on with."""
    try:
        stated = Stated(**json.loads(_beside(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    words = (stated.url, stated.validator or "", stated.linked_sha256 or "")
    if type(stated.total_bytes) is not int or not all(isinstance(word, str) for word in words):
        return None
    have = size_of(part)
    if not 0 < have <= stated.total_bytes:
        return None
    return stated if stated.validator is not None or have == stated.total_bytes else None


def discard(part: Path) -> None:
    """Remove a part and what is kept beside it."""
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def want_room(folder: Path, size_bytes: int) -> None:
    """Raises FetchError unless so many bytes are free."""
    disk.want_room(folder, size_bytes, error=FetchError, otherwise="let ANABRANCH_CACHE name a folder on another disk")


def _beside(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
