"""Which files are meant by the paths that a user gives: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from anabranch.errors import UsageError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def picture_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that `paths` stand for, in the order of `paths`; what a folder or a pattern gives is sorted.

    A file is taken as it is, whatever its suffix; of a folder, the pictures at any depth; of a pattern, its files.
    Raises UsageError for a path that stands for no file.
    """
    return [file for path in paths for file in _meant(Path(path))]


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder at any depth, told by their suffix: folder by folder, as torchvision sorts them."""
    walk = sorted(_walk(os.fspath(folder)))
    return [Path(root, name) for root, names in walk for name in sorted(names) if is_picture(name)]


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def _meant(path: Path) -> list[Path]:
    if path.is_dir():
        files = pictures_in(path)
        if not files:
            raise UsageError(f"{path}: no pictures in this folder; {', '.join(sorted(PICTURE_SUFFIXES))} are read")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(name)]
        if not files:
            raise UsageError(f"{path}: no file matches this pattern")
        return files
    raise UsageError(f"{path}: no such file or folder")


def _walk(folder: str) -> Iterable[tuple[str, list[str]]]:
    """Each folder at any depth with its files, through links but for those that lead back up."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _leads_up(os.path.join(root, name))]
        yield root, names


def _leads_up(folder: str) -> bool:
    if not os.path.islink(folder):
        return False
    target, home = os.path.realpath(folder), os.path.realpath(os.path.dirname(folder))
    return os.path.commonpath([target, home]) == target
