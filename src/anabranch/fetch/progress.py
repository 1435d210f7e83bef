"""What a fetch tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    doing: Literal["waiting", "downloading", "retrying", "checking"]  # waiting: another process fetches the same
    done_bytes: int = 0
    total_bytes: int | None = None
    why: str = ""  # in words, where it is retrying


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """For a caller who does not watch."""
