"""A folder that is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anabranch.disk import building_folder
from anabranch.errors import DatasetError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `folder` once the block ends without an error. Raises DatasetError."""
    folder = folder.resolve() if folder.is_symlink() else folder.absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DatasetError(f"{folder}: is there already; choose a place where nothing is")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with building_folder(folder) as staging:
        yield staging
        staging.rename(folder)  # onto an empty folder too
