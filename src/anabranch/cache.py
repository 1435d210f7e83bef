"""Where what can be made or fetched again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """ANABRANCH_CACHE, or where this system keeps caches. It may not exist yet."""
    if told := os.environ.get("ANABRANCH_CACHE"):
        return Path(told)
    import platformdirs

    return platformdirs.user_cache_path("anabranch")
