"""CIFAR-10 and CIFAR-100 as they are published, in the binary version.

A picture is a byte for its class (in CIFAR-100 one for its coarse class before it), then 1,024 bytes each of red, green
and blue, row by row. CIFAR-10 is data_batch_1.bin to data_batch_5.bin and test_batch.bin, with batches.meta.txt for the
names; CIFAR-100 train.bin and test.bin, with fine_label_names.txt. The version for Python is pickled, and is not read.
Source: https://www.cs.toronto.edu/~kriz/cifar.html, "binary version".
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError

SIDE_PX = 32
_PICTURE_BYTES = 3 * SIDE_PX * SIDE_PX
_PICKLED = ({"data_batch_1", "test_batch", "batches.meta"}, {"train", "test", "meta"})


class _Kind(NamedTuple):
    splits: dict[str, list[str]]  # -> files
    names: str  # the file of the classes' names
    label_bytes: int  # the last of which is the class


_KINDS = {
    "CIFAR-10": _Kind(
        {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]},
        "batches.meta.txt",
        1,
    ),
    "CIFAR-100": _Kind({"train": ["train.bin"], "test": ["test.bin"]}, "fine_label_names.txt", 2),
}


def is_cifar(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder with these names holds one of the two. Raises DatasetError for the version for Python."""
    if any(all((folder / name).is_file() for name in wanted) for wanted in _PICKLED):
        raise DatasetError(
            f"{folder}: this is CIFAR for Python, whose pickled files are not read; unpack the binary version of it "
            "(cifar-10-binary.tar.gz, cifar-100-binary.tar.gz) and give that folder"
        )
    return _kind(names) is not None


def read_cifar(
    folder: Path, names: Collection[str], split: str | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Pictures (N, 32, 32, 3), RGB, the class (N,) of each, and the names of the classes. Raises DatasetError."""
    kind = _kind(names)
    assert kind is not None
    if split not in kind.splits:
        raise DatasetError(f"{folder}: holds CIFAR's splits train and test; say which with split, not {split!r}")
    classes = tuple((folder / kind.names).read_text(encoding="utf-8").split())
    records = np.concatenate([_records(folder / name, kind.label_bytes) for name in kind.splits[split]])
    labels = records[:, kind.label_bytes - 1].astype(np.int64)
    if int(labels.max()) >= len(classes):
        raise DatasetError(f"{folder}: holds label {labels.max()}, but {kind.names} names {len(classes)} classes")
    planes = records[:, kind.label_bytes :].reshape(-1, 3, SIDE_PX, SIDE_PX)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, classes


def _kind(names: Collection[str]) -> _Kind | None:
    for kind in _KINDS.values():
        if {kind.names, *(name for files in kind.splits.values() for name in files)} <= set(names):
            return kind
    return None


def _records(path: Path, label_bytes: int) -> NDArray[np.uint8]:
    held = np.fromfile(path, np.uint8)
    size = label_bytes + _PICTURE_BYTES
    if held.size == 0 or held.size % size:
        raise DatasetError(
            f"{path}: {held.size:,} bytes are no whole number of pictures of {size:,}; it is damaged, take another copy"
        )
    return held.reshape(-1, size)
