"""WebDataset shards: a labelled set in tar files of many pictures each, which a network's disk reads fast.

A sample is what the names of its members share before the first dot: `dog/0012.jpg`, the picture, and `dog/0012.cls`,
its label in digits, or `dog/0012.json` with a number `label`, as others write them. Other members are passed over.
`classes.json` beside the shards names the classes. Source: https://github.com/webdataset/webdataset, "the format".

A shard's table of contents is read once and kept beside it in NAME.tar.index.json, or in memory where nothing may be
written there; after that any picture is one read. Nothing is ever unpacked: a member's path is a name and no more.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError, ImageError, need, shown
from anabranch.images.decode import MAX_FILE_BYTES, decode
from anabranch.images.files import PICTURE_SUFFIXES
from anabranch.images.lists import CLASSES_FILE, classes_text, read_classes

if TYPE_CHECKING:
    from anabranch.images.labelled import Labelled

SPLITS = {"train", "val", "valid", "validation", "test"}
_PACKED = re.compile(r".*\.(tgz|tar\.(gz|bz2|xz|zst|lz4))")
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # key and suffix, as webdataset parts them
_INDEX_VERSION = 1
_MAX_LABEL_BYTES = 1 << 20  # of a .json, which others fill with all that they know
_MOST_DIGITS = 9


class _Shard(NamedTuple):
    path: Path
    size_bytes: int
    mtime_ns: int


class _Contents(NamedTuple):
    """What lies in a shard, in its order."""

    names: list[str]  # of the pictures' members
    offsets: list[int]
    sizes: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledShards:
    """Pictures in shards. `names` are those of their members after that of their shard, 000000.tar/dog/0012.jpg."""

    folder: str
    names: Sequence[str]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    groups: Sequence[range]
    shards: Sequence[_Shard]
    offsets: NDArray[np.int64]  # (N,), within the shard
    sizes: NDArray[np.int64]  # (N,), bytes

    @property
    def pixels(self) -> None:
        return None

    @property
    def targets(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, index: int) -> NDArray[np.uint8]:
        return decode(self.encoded(index)[1], name=f"{self.folder}/{self.names[index]}")

    def encoded(self, index: int) -> tuple[str, bytes]:
        index = range(len(self))[index]
        shard = self.shards[bisect_right(self.groups, index, key=lambda group: group.start) - 1]
        length = min(int(self.sizes[index]), MAX_FILE_BYTES + 1)  # what is longer is refused when it is decoded
        try:  # opened for each picture, which takes microseconds: a thousand shards are more than may be kept open
            with shard.path.open("rb", buffering=0) as file:
                if _fingerprint(shard.path, os.fstat(file.fileno())) != shard:
                    raise ImageError(f"{shard.path}: has changed since it was opened; open the set again")
                file.seek(int(self.offsets[index]))
                data = file.read(length)
        except OSError as error:
            raise ImageError(f"{shard.path}: cannot be read: {error.strerror}") from None
        return os.path.splitext(self.names[index])[1], data


def are_shards(folder: Path, entries: Sequence[os.DirEntry[str]]) -> bool:
    """Whether a folder's pictures lie in shards. Raises DatasetError for shards that are compressed or in company."""
    shards = [entry.name for entry in entries if entry.name.endswith(".tar")]
    packed = [entry.name for entry in entries if _PACKED.fullmatch(entry.name)]
    folders = [entry.name for entry in entries if entry.is_dir()]
    if packed and not folders:
        raise DatasetError(
            f"{folder / packed[0]}: a compressed tar cannot be read at random, and pictures are compressed as they "
            "are; unpack it to a plain .tar"
        )
    if shards and folders:
        raise DatasetError(
            f"{folder}: holds shards ({shards[0]}, ...) and folders ({folders[0]}, ...), and one of the two is the "
            "set; give the folder of the one that is meant, or move the other elsewhere"
        )
    return bool(shards)


def open_shards(folder: Path, entries: Sequence[str], split: str | None) -> LabelledShards:
    """The shards among the names in a folder, or those that hold the word `split`. Raises DatasetError."""
    chosen = _of_split(folder, sorted(name for name in entries if name.endswith(".tar")), split)
    names: list[str] = []
    shards, groups, offsets, sizes, labels = [], [], [], [], []
    for name in chosen:
        shard, contents = _open_shard(folder / name)
        groups.append(range(len(names), len(names) + len(contents.names)))
        shards.append(shard)
        names += [f"{name}/{member}" for member in contents.names]
        offsets.append(np.array(contents.offsets, np.int64))
        sizes.append(np.array(contents.sizes, np.int64))
        labels.append(np.array(contents.labels, np.int64))
    every = np.concatenate(labels)
    classes = read_classes(folder)
    if classes is not None and int(every.max()) >= len(classes):
        raise DatasetError(
            f"{folder / names[int(every.argmax())]}: its label is {every.max()}, but {CLASSES_FILE} names "
            f"{len(classes)} classes, from 0 on"
        )
    return LabelledShards(
        str(folder), names, every, classes, tuple(groups), shards, np.concatenate(offsets), np.concatenate(sizes)
    )


def write_shards(
    data: Labelled,
    out: Path,
    *,
    max_bytes: int = 256 << 20,
    seed: int = 0,
    report: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write a set's files as they are into shards of about `max_bytes`, in an order drawn by `seed`.

    `out` must not exist or be empty, and is whole or not there. `report` is called after each picture. Gives the
    shards. Raises DatasetError, ImageError for a file that cannot be read, and MissingExtra.
    """
    writer = need("webdataset.writer", extra="train")
    if data.targets is not None:
        raise DatasetError(f"{out}: several labels a picture are not written to shards; keep the CSV")
    if max_bytes < 1:
        raise DatasetError(f"{out}: shards of {max_bytes} bytes cannot be written; at least 1 is wanted")
    opened: dict[str, BufferedWriter] = {}

    def opener(name: str) -> BufferedWriter:  # theirs takes a name for an address, by rules of the environment
        opened[name] = BufferedWriter(FileIO(name, "wb"))
        return opened[name]

    with new_folder(out) as staging:
        settings = {
            "opener": opener,
            "post": lambda name: opened.pop(name).close(),
            "encoder": False,
            "mtime": 0,  # the same pictures and seed make the same bytes
            "verbose": 0,
        }
        pattern = str(staging).replace("%", "%%") + "/%06d.tar"
        with writer.ShardWriter(pattern, len(data) + 1, max_bytes, **settings) as shards:
            for place, index in enumerate(np.random.default_rng(seed).permutation(len(data)).tolist()):
                shards.write(_sample(data, index, place))
                report()
        if data.class_names is not None:
            (staging / CLASSES_FILE).write_text(classes_text(data.class_names), encoding="utf-8")
    return sorted(out.glob("*.tar"))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `folder` once the block ends without an error. Raises DatasetError."""
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DatasetError(f"{folder}: is there already; choose a place where nothing is")
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    staging.mkdir(parents=True)
    try:
        yield staging
        staging.rename(folder)  # onto an empty folder too
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sample(data: Labelled, index: int, place: int) -> dict[str, object]:
    """What webdataset writes: a key that keeps some of the name, the picture, and the label in digits."""
    suffix, held = data.encoded(index)
    if suffix.lower() not in PICTURE_SUFFIXES:
        raise DatasetError(
            f"{data.names[index]}: in a shard the suffix says what a file is, and {suffix!r} is none of "
            f"{', '.join(sorted(PICTURE_SUFFIXES))}; rename it"
        )
    name = re.sub("[^A-Za-z0-9-]+", "_", os.path.splitext(data.names[index])[0])[-60:]
    label = str(int(data.labels[index])).encode()
    return {"__key__": f"{place:08d}_{name}", suffix[1:].lower(): held, "cls": label}


def _of_split(folder: Path, shards: list[str], split: str | None) -> list[str]:
    words = {name: set(re.findall("[a-z]+", name.removesuffix(".tar").lower())) for name in shards}
    if split is None:
        met = SPLITS & set().union(*words.values())
        if len(met) > 1:
            raise DatasetError(f"{folder}: holds shards of the splits {', '.join(sorted(met))}; say which with split")
        return shards
    chosen = [name for name in shards if split.lower() in words[name]]
    if not chosen:
        raise DatasetError(
            f"{folder}: holds no folder {split!r}, and none of its {len(shards)} shards ({shards[0]}, ...) has the "
            f"word {split!r} in its name"
        )
    return chosen


# ---- The table of contents -----------------------------------------------------------------------------------------


def _open_shard(path: Path) -> tuple[_Shard, _Contents]:
    try:
        with path.open("rb") as file:
            shard = _fingerprint(path, os.fstat(file.fileno()))
            contents = _kept(shard)
            if contents is None:
                contents = _listed(file, shard)
                _keep(shard, contents)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    return shard, contents


def _fingerprint(path: Path, status: os.stat_result) -> _Shard:
    return _Shard(path, status.st_size, status.st_mtime_ns)


def _listed(file: BufferedReader, shard: _Shard) -> _Contents:
    """Read through a tar, checking that all of it is there. Raises DatasetError."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    seen: dict[str, None] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in _files(tar, shard):
                parted = _MEMBER.fullmatch(member.name)
                if parted is None or member.name.endswith("__"):
                    continue
                key, suffix = parted[1], parted[2].lower()
                seen[key] = None
                if f".{suffix}" in PICTURE_SUFFIXES:
                    if key in pictures:
                        raise DatasetError(f"{_said(shard, member.name)} is a second picture of {shown(key)!r}")
                    pictures[key] = (member.name, member.offset_data, member.size)
                elif suffix == "cls" or (suffix == "json" and key not in labels):
                    file.seek(member.offset_data)
                    label = _label(file.read(min(member.size, _MAX_LABEL_BYTES)), suffix)
                    if label is None and suffix == "cls":
                        raise DatasetError(f"{_said(shard, member.name)} is not a whole number from 0 on")
                    if label is not None:
                        labels[key] = label
            _check_end(file, tar.offset, shard)
    except tarfile.TarError as error:
        raise DatasetError(
            f"{shard.path}: not a plain tar that is whole: {error}; copy or make it again, or unpack it where it is "
            "compressed"
        ) from None
    for key in seen:
        if key not in pictures:
            wanted = "a .jpg, .png or .webp, and a name is cut at its first dot"
            raise DatasetError(f"{_said(shard, key)} has no picture: {wanted}")
        if key not in labels:
            raise DatasetError(f"{_said(shard, key)} has no label: a .cls, or a .json with a number 'label', is wanted")
    if not seen:
        raise DatasetError(f"{shard.path}: holds no pictures")
    names, offsets, sizes = (list(column) for column in zip(*(pictures[key] for key in seen), strict=True))
    return _Contents(names, offsets, sizes, [labels[key] for key in seen])


def _files(tar: tarfile.TarFile, shard: _Shard) -> Iterator[tarfile.TarInfo]:
    """A tar's plain files. Raises DatasetError for a link, a device, and data beyond the end of the file."""
    end = 0
    for member in tar:
        if member.offset_data < end or member.size < 0 or member.offset_data + member.size > shard.size_bytes:
            raise DatasetError(
                f"{_said(shard, member.name)} is said to be {member.size:,} bytes from byte {member.offset_data:,} on, "
                f"and the file has {shard.size_bytes:,}: it is cut short or damaged; copy or make it again"
            )
        end = member.offset_data
        if member.isreg() and not member.issparse():
            yield member
        elif not member.isdir():
            raise DatasetError(f"{_said(shard, member.name)} is a link or no file at all; plain files are wanted")


def _check_end(file: BufferedReader, offset: int, shard: _Shard) -> None:
    """A tar ends in blocks of zeros. Where tarfile meets something else after the first member, it stops in silence."""
    file.seek(offset)
    rest = file.read(1 << 16)
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        met = "something else" if rest.strip(b"\0") else "nothing"
        raise DatasetError(
            f"{shard.path}: {met} where a tar's end is wanted, at byte {offset:,}: it is cut short or damaged, or "
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


def _said(shard: _Shard, member: str) -> str:
    return f"{shard.path}: {shown(member)!r}"


def _beside(shard: _Shard) -> Path:
    return shard.path.with_name(f"{shard.path.name}.index.json")


def _kept(shard: _Shard) -> _Contents | None:
    """The contents kept beside a shard, where they are of this very file and hold together."""
    try:
        held: Any = json.loads(_beside(shard).read_bytes())
        contents = _Contents(**held["contents"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    if held.get("of") != _identity(shard) or len({len(column) for column in contents}) != 1 or not contents.names:
        return None
    numbers = [contents.offsets, contents.sizes, contents.labels]
    if not all(type(number) is int and number >= 0 for column in numbers for number in column):
        return None
    fits = max(map(sum, zip(contents.offsets, contents.sizes, strict=True))) <= shard.size_bytes
    return contents if fits and all(type(name) is str for name in contents.names) else None


def _keep(shard: _Shard, contents: _Contents) -> None:
    place = _beside(shard)
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(json.dumps({"of": _identity(shard), "contents": contents._asdict()}), encoding="utf-8")
        part.replace(place)
    except OSError:  # a folder that may only be read, or a full disk: the tar is read through again next time
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _identity(shard: _Shard) -> list[object]:
    return [_INDEX_VERSION, shard.path.name, shard.size_bytes, shard.mtime_ns]
