"""WebDataset shards: a labelled set in tar files of many pictures each, which a network's disk reads fast.

`classes.json` beside the shards names the classes; what lies in one of them, and where, is the matter of images.tars.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError, need
from anabranch.images.decode import MAX_FILE_BYTES, decode
from anabranch.images.files import PICTURE_SUFFIXES
from anabranch.images.lists import CLASSES_FILE, classes_text, read_classes, want_names
from anabranch.images.staging import new_folder
from anabranch.images.tars import Tar, open_tar, read_part

if TYPE_CHECKING:
    from anabranch.images.labelled import Labelled

SPLITS = {"train", "training", "val", "valid", "validation", "eval", "test", "testing"}
_PACKED = re.compile(r".*\.(tgz|tar\.(gz|bz2|xz|zst|lz4))")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledShards:
    """Pictures in shards. `names` are those of their members after that of their shard, 000000.tar/dog/0012.jpg."""

    folder: str
    names: Sequence[str]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    groups: Sequence[range]
    shards: Sequence[Tar]
    offsets: NDArray[np.int64]  # (N,), within the shard
    sizes: NDArray[np.int64]  # (N,), bytes
    rotate_exif: bool = False

    @property
    def pixels(self) -> None:
        return None

    @property
    def targets(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, index: int) -> NDArray[np.uint8]:
        name = f"{self.folder}/{self.names[index]}"
        return decode(self.encoded(index)[1], name=name, rotate_exif=self.rotate_exif)

    def encoded(self, index: int) -> tuple[str, bytes]:
        index = range(len(self))[index]
        shard = self.shards[bisect_right(self.groups, index, key=lambda group: group.start) - 1]
        length = min(int(self.sizes[index]), MAX_FILE_BYTES + 1)  # what is longer is refused when it is decoded
        data = read_part(shard, offset=int(self.offsets[index]), num_bytes=length)
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
        shard, contents = open_tar(folder / name)
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
    want_names(data.class_names or (), str(out))
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
            f"word {split!r} in its name; give them such names, or each split's shards a folder of their own"
        )
    return chosen
