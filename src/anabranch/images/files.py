"""Which files are meant by the paths that a user gives: files, folders and patterns.

In a folder, names that begin with a dot are passed over: a Mac's `._photo.jpg`, a notebook's `.ipynb_checkpoints`.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from anabranch.errors import DatasetError, UsageError, shown

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_ENDINGS = tuple(PICTURE_SUFFIXES)
_EXPECTED = PICTURE_SUFFIXES | {".txt", ".csv", ".json", ".xml", ".md", ".html", ".db", ".ini"}  # nobody misses these


def picture_files(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The files that `paths` stand for, in the order of `paths`; what a folder or a pattern gives is sorted.

    A file is taken as it is, whatever its suffix; of a folder, the pictures at any depth, told by their suffix: folder
    by folder, as torchvision sorts them, without pipes and devices; of a pattern, its files. Texts as Path spells them,
    and no Paths, of which a million would take half a gigabyte. Raises UsageError for a path that stands for no file,
    DatasetError for a folder that cannot be read, at any depth.
    """
    return [file for path in paths for file in _meant(Path(path))]


def files_in(folder: str | os.PathLike[str]) -> list[Path]:
    """All files of a folder at any depth, in the same order. Raises DatasetError where a folder cannot be read."""
    return [Path(place + name) for place, name in _sorted_walk(os.fspath(folder))]


def is_picture(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    return name.startswith(".")


def count_ignored(files: Iterable[Path]) -> Counter[str]:
    """How many of the files are not read as pictures, by suffix, but for those that nobody would take for one."""
    return Counter(suffix for file in files if (suffix := _suffix(file.name)) not in _EXPECTED)


def told_ignored(counts: Mapping[str, int]) -> str:
    """What `count_ignored` found, for a person."""
    most = Counter(counts).most_common(5)
    told = ", ".join(f"{count:,} {shown(suffix) or 'without a suffix'}" for suffix, count in most)
    more = ", ..." if len(counts) > len(most) else ""
    return f"left out are {told}{more}; only {', '.join(sorted(PICTURE_SUFFIXES))} are read"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _meant(path: Path) -> list[str]:
    if path.is_dir():
        files = [place + name for place, name in _sorted_walk(os.fspath(path)) if is_picture(name)]
        if not files:
            raise UsageError(f"{path}: no pictures in this folder; {', '.join(sorted(PICTURE_SUFFIXES))} are read")
        return files
    if path.exists():
        return [os.fspath(path)]
    if glob.has_magic(str(path)):
        files = [name for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(name)]
        if not files:
            raise UsageError(f"{path}: no file matches this pattern")
        return files
    raise UsageError(f"{path}: no such file or folder")


def _sorted_walk(folder: str) -> Iterator[tuple[str, str]]:
    """What stands before a file's name in its path, as Path spells it, and the name."""
    for root, names in sorted(_walk(folder)):
        place = os.path.join(root, "").removeprefix(os.path.join(os.curdir, ""))
        yield from ((place, name) for name in sorted(names))


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder at any depth with its files, through links but for those that lead back to where one came from."""
    waiting = [(folder, frozenset[str]())]
    while waiting:
        place, above = waiting.pop()
        here = above | {os.path.realpath(place)}
        folders, names = _held(place)
        yield place, names
        below = (os.path.join(place, name) for name in folders)
        waiting += [(each, here) for each in below if not _leads_back(each, here)]


def _held(folder: str) -> tuple[list[str], list[str]]:
    """The names of its folders and files that are not hidden; a link that leads nowhere is a file that cannot be read.

    A pipe or a device is neither: reading it could wait for ever.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if _holds(entry.is_file):
                    files.append(entry.name)
                elif _holds(entry.is_dir):
                    folders.append(entry.name)
                elif not os.path.exists(entry.path):
                    files.append(entry.name)
    except OSError as error:
        raise DatasetError(
            f"{error.filename}: this folder cannot be read: {error.strerror}; make it readable, or move it elsewhere"
        ) from None
    return folders, files


def _holds(asked: Callable[[], bool]) -> bool:
    """Not of a link to itself, at which asking is an error."""
    try:
        return asked()
    except OSError:
        return False


def _leads_back(folder: str, above: frozenset[str]) -> bool:
    """To one of the folders above it, by whatever way, or to one that holds such a folder."""
    target = os.path.realpath(folder)
    return any(os.path.commonpath([target, each]) == target for each in above)
