"""What lies in a tar of labelled pictures, and where: each picture's member, its place and its label.

A sample is what the names of its members share before the first dot: `dog/0012.jpg`, the picture, and `dog/0012.cls`,
its label in digits, or `dog/0012.json` with a number `label`, as others write them. Other members are passed over.
Source: https://github.com/webdataset/webdataset, "the format".

A tar is read through once, and what was found is kept beside it in NAME.tar.index.json, or in memory where nothing may
be written there; after that any picture is one read. Nothing is ever unpacked: a member's path is a name and no more.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, NamedTuple

from anabranch.errors import DatasetError, ImageError, shown
from anabranch.images.files import PICTURE_SUFFIXES

_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # key and suffix, as webdataset parts them
_INDEX_VERSION = 1
_MAX_LABEL_BYTES = 1 << 20  # of a .json, which others fill with all that they know
_MOST_DIGITS = 9


class Tar(NamedTuple):
    """A file as it was met, to be known again."""

    path: Path
    size_bytes: int
    mtime_ns: int


class Contents(NamedTuple):
    """The pictures of a tar, in its order."""

    names: list[str]  # of their members
    offsets: list[int]
    sizes: list[int]
    labels: list[int]


def open_tar(path: Path) -> tuple[Tar, Contents]:
    """A tar and what lies in it, looked up or read through. Raises DatasetError."""
    try:
        with path.open("rb") as file:
            tar = _met(path, file)
            contents = _kept(tar)
            if contents is None:
                contents = _listed(file, tar)
                _keep(tar, contents)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    return tar, contents


def read_part(tar: Tar, *, offset: int, num_bytes: int) -> bytes:
    """Raises ImageError for a tar that cannot be read, or is another one by now."""
    try:  # opened for each picture, which takes microseconds: a thousand shards are more than may be kept open
        with tar.path.open("rb", buffering=0) as file:
            if _met(tar.path, file) != tar:
                raise ImageError(f"{tar.path}: has changed since it was opened; open the set again")
            file.seek(offset)
            return file.read(num_bytes)
    except OSError as error:
        raise ImageError(f"{tar.path}: cannot be read: {error.strerror}") from None


def _met(path: Path, file: BufferedReader | FileIO) -> Tar:
    status = os.fstat(file.fileno())
    return Tar(path, status.st_size, status.st_mtime_ns)


# ---- Read through --------------------------------------------------------------------------------------------------


def _listed(file: BufferedReader, tar: Tar) -> Contents:
    """Read through a tar, checking that all of it is there. Raises DatasetError."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    seen: dict[str, None] = {}
    for member in _members(file, tar):
        parted = _MEMBER.fullmatch(member.name)
        if parted is None or member.name.endswith("__"):
            continue
        key, suffix = parted[1], parted[2].lower()
        if f".{suffix}" in PICTURE_SUFFIXES:
            if key in pictures:
                raise DatasetError(f"{_said(tar, member.name)} is a second picture of {shown(key)!r}")
            pictures[key] = (member.name, member.offset_data, member.size)
            seen[key] = None
        elif suffix == "cls" or (suffix == "json" and key not in labels):
            file.seek(member.offset_data)
            label = _label(file.read(min(member.size, _MAX_LABEL_BYTES)), suffix)
            if label is None and suffix == "cls":
                raise DatasetError(f"{_said(tar, member.name)} is not a whole number from 0 on")
            if label is not None:
                labels[key] = label
                seen[key] = None
    if not seen:
        raise DatasetError(f"{tar.path}: holds no pictures")
    for key in seen:
        if key not in pictures:
            wanted = "a .jpg, .png or .webp, and a name is cut at its first dot"
            raise DatasetError(f"{_said(tar, key)} has no picture: {wanted}")
        if key not in labels:
            raise DatasetError(f"{_said(tar, key)} has no label: a .cls, or a .json with a number 'label', is wanted")
    names, offsets, sizes = (list(column) for column in zip(*(pictures[key] for key in seen), strict=True))
    return Contents(names, offsets, sizes, [labels[key] for key in seen])


def _members(file: BufferedReader, tar: Tar) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar that is whole. Raises DatasetError for damage, a link, and a device."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            end = 0
            for member in archive:
                _check_member(member, end, tar)
                end = member.offset_data
                if not member.isdir():
                    yield member
            _check_end(file, archive.offset, tar)
    except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:  # the last of a name without end
        why = str(error) or type(error).__name__
        raise DatasetError(
            f"{tar.path}: not a plain tar that is whole: {why}; copy or make it again, or unpack it if it is compressed"
        ) from None


def _check_member(member: tarfile.TarInfo, end: int, tar: Tar) -> None:
    """Its data lies behind that of the one before, which began at `end`, and within the file."""
    if member.offset_data < end or member.size < 0 or member.offset_data + member.size > tar.size_bytes:
        raise DatasetError(
            f"{_said(tar, member.name)} is said to be {member.size:,} bytes from byte {member.offset_data:,} on, "
            f"and the file has {tar.size_bytes:,}: it is cut short or damaged; copy or make it again"
        )
    if not member.isdir() and (not member.isreg() or member.issparse()):
        raise DatasetError(f"{_said(tar, member.name)} is a link or no file at all; plain files are wanted")


def _check_end(file: BufferedReader, offset: int, tar: Tar) -> None:
    """A tar ends in blocks of zeros. Where tarfile meets something else after the first member, it stops in silence."""
    file.seek(offset)
    rest = file.read(1 << 16)
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        met = "something else" if rest.strip(b"\0") else "nothing"
        raise DatasetError(
            f"{tar.path}: {met} where a tar's end is wanted, at byte {offset:,}: it is cut short or damaged, or "
            "several tars were strung together; make it again"
        )


def _label(text: bytes, suffix: str) -> int | None:
    if suffix == "cls":
        digits = text.strip()
        return int(digits) if digits.isdigit() and len(digits) <= _MOST_DIGITS else None
    try:
        label = json.loads(text)["label"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return label if type(label) is int and 0 <= label < 10**_MOST_DIGITS else None


def _said(tar: Tar, member: str) -> str:
    return f"{tar.path}: {shown(member)!r}"


# ---- Kept beside it -------------------------------------------------------------------------------------------------


def _beside(tar: Tar) -> Path:
    return tar.path.with_name(f"{tar.path.name}.index.json")


def _kept(tar: Tar) -> Contents | None:
    """The contents kept beside a tar, where they are of this very file and hold together."""
    try:
        held: Any = json.loads(_beside(tar).read_bytes())
        contents = Contents(**held["contents"])
        if held["of"] != _identity(tar):
            return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    if not all(isinstance(column, list) for column in contents) or len({len(column) for column in contents}) != 1:
        return None
    numbers = [contents.offsets, contents.sizes, contents.labels]
    if not contents.names or not all(type(number) is int and number >= 0 for column in numbers for number in column):
        return None
    if max(contents.labels) >= 10**_MOST_DIGITS:
        return None
    fits = max(map(sum, zip(contents.offsets, contents.sizes, strict=True))) <= tar.size_bytes
    return contents if fits and all(type(name) is str for name in contents.names) else None


def _keep(tar: Tar, contents: Contents) -> None:
    place = _beside(tar)
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(json.dumps({"of": _identity(tar), "contents": contents._asdict()}), encoding="utf-8")
        part.replace(place)
    except OSError:  # a folder that may only be read, or a full disk: the tar is read through again next time
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _identity(tar: Tar) -> list[object]:
    return [_INDEX_VERSION, tar.path.name, tar.size_bytes, tar.mtime_ns]
