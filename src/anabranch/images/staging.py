"""A folder that is there whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anabranch.errors import DatasetError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `folder` once the block ends without an error. Raises DatasetError."""
    folder = folder.resolve() if folder.is_symlink() else folder.absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DatasetError(f"{folder}: is there already; choose a place where nothing is")
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    staging.mkdir(parents=True)
    try:
        yield staging
        staging.rename(folder)  # onto an empty folder too
    finally:
        shutil.rmtree(staging, ignore_errors=True)
