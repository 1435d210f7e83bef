"""Where what can be made or fetched again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from anabranch.errors import UsageError


def cache_folder() -> Path:
    """ANABRANCH_CACHE, or where this system keeps caches. It may not exist yet. Raises UsageError."""
    if told := os.environ.get("ANABRANCH_CACHE"):
        return from_home("ANABRANCH_CACHE", told)
    import platformdirs

    return platformdirs.user_cache_path("anabranch")


def from_home(variable: str, told: str) -> Path:
    """The folder that an environment variable names, its ~ being a home. Raises UsageError for nobody's home."""
    try:
        return Path(told).expanduser()
    except RuntimeError:
        raise UsageError(f"{variable} is {told!r}, and no such home is known here; write the whole path") from None
